"""A scripted model for Pydantic AI, so that tests can run the unchanged agent without AI and offline.

The question is the script. Each line has a tool and its arguments, `reference_add {"a": 1, "b": 2}`. The model calls
them in order, and answers with their results. `MODEL=scripted` selects it.
"""

import json

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


class ScriptedModel(FunctionModel):
    """A model that runs the script in the question."""

    def __init__(self) -> None:
        super().__init__(_next_step, model_name="scripted")


def _next_step(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    parts = [part for message in messages for part in message.parts]
    script = next(str(part.content) for part in parts if isinstance(part, UserPromptPart)).splitlines()
    results = [part.content for part in parts if isinstance(part, ToolReturnPart)]
    if len(results) == len(script):
        return ModelResponse(parts=[TextPart("\n".join(json.dumps(result, ensure_ascii=False) for result in results))])
    tool, _, arguments = script[len(results)].partition(" ")
    tool_names = [result.name for result in info.function_tools]
    if tool not in tool_names:
        return ModelResponse(
            parts=[TextPart(f"There is no tool {tool}. Available tools: {', '.join(tool_names) or 'none'}.")]
        )
    return ModelResponse(parts=[ToolCallPart(tool, arguments or "{}")])
