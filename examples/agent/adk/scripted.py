"""A scripted model for ADK, so that tests can run the unchanged agent without AI and offline.

The question is the script. Each line has a tool and its arguments, `reference_add {"a": 1, "b": 2}`. The model calls
them in order, and answers with their results. `MODEL=scripted` selects it.
"""

import json
from collections.abc import AsyncGenerator

from google.adk.models import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai.types import Content, Part


class ScriptedModel(BaseLlm):
    """A model that runs the script in the question."""

    model: str = "scripted"

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Return the next step of the script."""
        parts = [part for content in llm_request.contents for part in content.parts or ()]
        script = next(part.text for part in parts if part.text).splitlines()
        results = [part.function_response.response for part in parts if part.function_response]
        if len(results) < len(script):
            tool, _, arguments = script[len(results)].partition(" ")
            if tool in llm_request.tools_dict:
                step = Part.from_function_call(name=tool, args=json.loads(arguments or "{}"))
            else:
                step = Part(
                    text=f"There is no tool {tool}. Available tools: {', '.join(llm_request.tools_dict) or 'none'}."
                )
        else:
            step = Part(text="\n".join(json.dumps(result, ensure_ascii=False) for result in results))
        yield LlmResponse(content=Content(role="model", parts=[step]))
