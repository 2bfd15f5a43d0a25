"""Who serves models: the protocol, the address, and the environment variable that usually holds the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gristmill.llm.remote import HttpModel


@dataclass(frozen=True, slots=True)
class Provider:
    """`key` is "" for servers of one's own, which mostly want none."""

    protocol: str
    base_url: str
    key: str = ""


_OPENAI = "https://api.openai.com/v1"
PROVIDERS = {
    "openai": Provider("chat", _OPENAI, "OPENAI_API_KEY"),
    "openai-responses": Provider("responses", _OPENAI, "OPENAI_API_KEY"),
    "openai-embeddings": Provider("embeddings", _OPENAI, "OPENAI_API_KEY"),
    "anthropic": Provider("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    "gemini": Provider("gemini", "https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY"),
    "302ai": Provider("chat", "https://api.302.ai/v1", "API_302_KEY"),
    "dashscope": Provider("chat", "https://dashscope.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "deepseek": Provider("chat", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "doubao": Provider("chat", "https://ark.cn-beijing.volces.com/api/v3", "ARK_API_KEY"),
    "groq": Provider("chat", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "minimax": Provider("chat", "https://api.minimaxi.com/v1", "MINIMAX_API_KEY"),
    "mistral": Provider("chat", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshot": Provider("chat", "https://api.moonshot.cn/v1", "MOONSHOT_API_KEY"),
    "openrouter": Provider("chat", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "siliconflow": Provider("chat", "https://api.siliconflow.cn/v1", "SILICONFLOW_API_KEY"),
    "together": Provider("chat", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "xai": Provider("chat", "https://api.x.ai/v1", "XAI_API_KEY"),
    "zhipu": Provider("chat", "https://open.bigmodel.cn/api/paas/v4", "ZHIPU_API_KEY"),
    "llamacpp": Provider("chat", "http://127.0.0.1:8080/v1"),
    "lmstudio": Provider("chat", "http://127.0.0.1:1234/v1"),
    "ollama": Provider("chat", "http://127.0.0.1:11434/v1"),
    "vllm": Provider("chat", "http://127.0.0.1:8000/v1"),
}


def protocol_class(provider: str) -> type[HttpModel]:
    """The class that speaks the provider's protocol; imported when it is asked for."""
    protocol = PROVIDERS[provider].protocol
    if protocol == "responses":
        from gristmill.llm.openai_responses import OpenAIResponsesModel

        return OpenAIResponsesModel
    if protocol == "embeddings":
        from gristmill.llm.embeddings import OpenAIEmbeddings

        return OpenAIEmbeddings
    if protocol == "anthropic":
        from gristmill.llm.anthropic import AnthropicModel

        return AnthropicModel
    if protocol == "gemini":
        from gristmill.llm.gemini import GeminiModel

        return GeminiModel
    from gristmill.llm.openai import OpenAIModel

    return OpenAIModel
