"""A scripted model, for tests: no AI, but what Pydantic AI takes for one, so that the agent runs as it is, offline.

The question is the script. Each of its lines names a tool and its arguments, `reference_add {"a": 1, "b": 2}`; the
model calls one after the other, and its answer is what they said. `MODEL=scripted` chooses it.
"""

import json

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


class ScriptedModel(FunctionModel):
    """Does what the question says."""

    def __init__(self) -> None:
        super().__init__(_next_step, model_name="scripted")


def _next_step(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    parts = [part for message in messages for part in message.parts]
    script = next(str(part.content) for part in parts if isinstance(part, UserPromptPart)).splitlines()
    said = [part.content for part in parts if isinstance(part, ToolReturnPart)]
    if len(said) == len(script):
        return ModelResponse(parts=[TextPart("\n".join(json.dumps(one, ensure_ascii=False) for one in said))])
    tool, _, arguments = script[len(said)].partition(" ")
    there = [one.name for one in info.function_tools]
    if tool not in there:
        return ModelResponse(parts=[TextPart(f"There is no tool {tool}; there is {', '.join(there) or 'none'}.")])
    return ModelResponse(parts=[ToolCallPart(tool, arguments or "{}")])
