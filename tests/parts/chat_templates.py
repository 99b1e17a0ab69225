"""Chat templates in the manner of well-known models, in few lines, for the tokenizer of the tests."""

from __future__ import annotations

LLAMA_3 = (
    "{% for m in messages %}{% set text = '<|system|>' + m.role + '<|system|>\n\n' + m.content | trim + '<|end|>' %}"
    "{% if loop.first %}<|user|>{% endif %}{{ text }}{% endfor %}"
    "{% if add_generation_prompt %}<|system|>assistant<|system|>\n\n{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|end|>{% endif %}"
)
QWEN_3 = (
    "{% set ns = namespace(query=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}{% set halves = m.content.split('</think>') %}"
    "{% if loop.index0 > ns.query and (loop.last or halves | length > 1) %}<think>\n"
    "{{ halves[0].split('<think>')[-1].strip('\n') if halves | length > 1 else '' }}\n</think>\n\n{% endif %}"
    "{{ halves[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
DEEPSEEK_R1 = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}"
    "{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
NEMOTRON = (
    "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}"
    "{% if '</think>' not in m.content %}<think></think>{{ m.content }}"
    "{% elif loop.last %}{{ m.content }}{% else %}<think></think>{{ m.content.split('</think>')[-1] }}{% endif %}"
    "{% else %}{{ m.content }}{% endif %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n<think>"
    "{{ '\n' if enable_thinking | default(true) else '</think>' }}{% endif %}"
)
GPT_OSS = (
    "{% for m in messages %}{% set end = loop.last %}{% set place = loop.index0 %}"
    "{% set later = messages[place + 1:] | selectattr('role', 'equalto', 'assistant') | rejectattr('tool_calls') | list %}"
    "{% if m.role == 'assistant' and m.tool_calls %}"
    "{% if m.thinking and not later %}<|assistant|>analysis: {{ m.thinking }}<|end|>{% endif %}"
    "<|assistant|>to={{ m.tool_calls[0].function.name }} commentary: {{ m.tool_calls[0].function.arguments | tojson }}<|call|>"
    "{% elif m.role == 'assistant' %}"
    "{% if end and m.thinking %}<|assistant|>analysis: {{ m.thinking }}<|end|>{% endif %}"
    "<|assistant|>final: {{ m.content }}{{ '<|return|>' if end and not add_generation_prompt else '<|end|>' }}"
    "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
