"""A scripted model, for tests: no AI, but what ADK takes for one, so that the agent runs as it is, offline.

The question is the script. Each of its lines names a tool and its arguments, `reference_add {"a": 1, "b": 2}`; the
model calls one after the other, and its answer is what they said. `MODEL=scripted` chooses it.
"""

import json
from collections.abc import AsyncGenerator

from google.adk.models import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai.types import Content, Part


class ScriptedModel(BaseLlm):
    """Does what the question says."""

    model: str = "scripted"

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """The next step of the script."""
        parts = [part for content in llm_request.contents for part in content.parts or ()]
        script = next(part.text for part in parts if part.text).splitlines()
        said = [part.function_response.response for part in parts if part.function_response]
        if len(said) < len(script):
            tool, _, arguments = script[len(said)].partition(" ")
            if tool in llm_request.tools_dict:
                step = Part.from_function_call(name=tool, args=json.loads(arguments or "{}"))
            else:
                step = Part(text=f"There is no tool {tool}; there is {', '.join(llm_request.tools_dict) or 'none'}.")
        else:
            step = Part(text="\n".join(json.dumps(one, ensure_ascii=False) for one in said))
        yield LlmResponse(content=Content(role="model", parts=[step]))
