"""fastmcp_client.py URL: uses each feature of the reference server with FastMCP's client, and prints the results."""

import asyncio
import json
import sys

from fastmcp import Client

told = {}


async def feature(name, use):
    try:
        told[name] = "ok" if await use() else "wrong"
    except Exception as error:
        told[name] = repr(error)[:200]


async def main(url):
    reports, logged = [], []

    async def answer(message, response_type, params, context):
        return {"cups": 2, "milk": True}

    async def sample(messages, params, context):
        return "a haiku"

    async def progress(done, total, message):
        reports.append(done)

    async def log(message):
        logged.append(message.data)

    async with Client(url, elicitation_handler=answer, sampling_handler=sample, log_handler=log) as client:

        async def tools():
            return any(tool.name == "add" for tool in await client.list_tools())

        async def structured():
            return (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}

        async def failing():
            return (await client.call_tool("swatch", {"color": "mauve"}, raise_on_error=False)).is_error

        async def kind(tool, arguments, attribute, value):
            content = (await client.call_tool(tool, arguments)).content[0]
            return getattr(content, attribute, None) == value

        async def embedded():
            return (
                str((await client.call_tool("look_up_color", {"name": "teal"})).content[0].resource.uri)
                == "color://teal"
            )

        async def counted():
            await client.call_tool("countdown", {"seconds": 1}, progress_handler=progress)
            return reports == [0, 1]

        async def resources():
            return "#008080" in (await client.read_resource("color://palette"))[0].text

        async def templates():
            return len(await client.list_resource_templates()) == 1 and (
                "#008080" in (await client.read_resource("color://teal"))[0].text
            )

        async def prompts():
            return "teal" in (await client.get_prompt("describe_color", {"name": "teal"})).messages[0].content.text

        async def completion():
            ref = {"type": "ref/prompt", "name": "describe_color"}
            from mcp_types import PromptReference

            return (await client.complete(PromptReference(**ref), {"name": "mood", "value": "ca"})).values == ["calm"]

        async def elicitation():
            return (await client.call_tool("order_tea", {"kind": "mint"})).structured_content["cups"] == 2

        async def sampling():
            return (await client.call_tool("haiku", {"topic": "autumn"})).content[0].text == "a haiku"

        async def logging():
            await client.call_tool("rehearse", {"steps": ["a"]})
            return bool(logged)

        await feature("tools", tools)
        await feature("structured output", structured)
        await feature("tool error", failing)
        await feature("image", lambda: kind("swatch", {"color": "teal"}, "mime_type", "image/png"))
        await feature("audio", lambda: kind("tone", {}, "mime_type", "audio/wav"))
        await feature("embedded resource", embedded)
        await feature("progress", counted)
        await feature("resources", resources)
        await feature("templates", templates)
        await feature("prompts", prompts)
        await feature("completion", completion)
        await feature("elicitation", elicitation)
        await feature("sampling", sampling)
        await feature("logging", logging)
    print(json.dumps(told))


asyncio.run(main(sys.argv[1]))
