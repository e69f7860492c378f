"""What every tokenizer agrees on: where the words of a text are."""

from __future__ import annotations

import re

#: A run of bytes between ASCII white space, with the one space before it where there is one.
WORD = re.compile(rb" ?[^ \t\n\r\x0b\x0c]+")
