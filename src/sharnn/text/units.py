"""The definition of a word that all tokenizers share."""

from __future__ import annotations

import re

#: A run of bytes without ASCII white space, together with one space before it if there is one.
WORD = re.compile(rb" ?[^ \t\n\r\x0b\x0c]+")
