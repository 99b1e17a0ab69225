"""The names that a chat template is given from outside."""

from __future__ import annotations

from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta


class _Generation(jinja2.ext.Extension):
    """The tags with which a template marks the assistant's words, so that such templates can be parsed."""

    tags = {"generation"}  # noqa: RUF012  # as the base class has it

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_JINJA = jinja2.Environment(extensions=[_Generation, "jinja2.ext.loopcontrols"])


def variables_of(template: str) -> set[str]:
    """Return the names that a chat template is given from outside. Raises TemplateSyntaxError: it is no template."""
    return jinja2.meta.find_undeclared_variables(_JINJA.parse(template))
