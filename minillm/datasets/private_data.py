r"""Masking of private data: e-mail addresses, IP addresses and phone numbers become [email], [IP] and [phone].

A model can repeat what it has read (Carlini et al. 2021), so what identifies a person is replaced before training. The
patterns prefer to miss an address to masking what is none, because texts have more dates, prices and versions than
phone numbers:

* a phone number has a country code (+33 1 23 45 67 89), is grouped as in North America (555-123-4567), or starts
  with 0 and is grouped by spaces or signs (06 12 34 56 78); ten digits in a row are none
* an IP address is not part of a longer number with dots, and does not follow the word "version" or "section"

Masking a masked text changes nothing. It takes linear time, also for hostile texts: each quantifier is bounded, or
possessive (++, never undone) over characters in which no other match can start.
"""

import re
from typing import NamedTuple

LABEL = r"\w++(?:-++\w++){0,9}+"  # of a domain: words joined by hyphens
EMAIL = rf"(?<!\w)\w[\w.+%-]{{0,63}}+@(?:{LABEL}\.){{1,8}}[A-Za-z]{{2,}}+(?!\w)"  # 64: the most before the @ (RFC 5321)

OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
NOT_A_VERSION = "".join(rf"(?<!{word} )" for word in ("version", "release", "section", "chapter"))
IPV4 = rf"(?<![\w.])(?=[0-9])(?i:{NOT_A_VERSION})(?:{OCTET}\.){{3}}{OCTET}(?!\w|\.\w|-[A-Za-z])"
GROUP = r"[0-9A-Fa-f]{1,4}"
IPV6 = (
    rf"(?<![\w:.-])(?=[A-Fa-f:]*+[0-9])"  # with a digit, unlike names of C++
    rf"(?:(?:{GROUP}:){{7}}{GROUP}|(?:{GROUP}:){{2,6}}(?::{GROUP}){{1,5}})(?![\w:]|\.\w)"
)

# subtle: masking one address must not turn its neighbor into an address, so none may depend on another one beside it.
# An address neither follows nor precedes a letter or a digit; a phone number, nor one of these signs beside a digit.
START, END = r"(?<![\w.@+/-])", r"(?!\w|[.@+/-]\w)"
INTERNATIONAL = r"\+(?=[1-9])(?:[ .()-]{0,2}[0-9]){8,15}"  # 15: E.164
NORTH_AMERICAN = r"(?:1[ .-])?[2-9][0-9]{2}[ .-][0-9]{3}[.-][0-9]{4}"
WITH_AREA = r"\([2-9][0-9]{2}\) ?[0-9]{3}[ .-][0-9]{4}"
BY_TWOS = r"0[1-9](?:(?: [0-9]{2}){4}|(?:\.[0-9]{2}){4}|(?:-[0-9]{2}){4})"
NATIONAL = r"0[1-9][0-9]{1,3}[ /-][0-9]{3,4}[ -]?[0-9]{3,4}"
PHONE = rf"(?:{START}(?:{INTERNATIONAL}|(?:1[ .-])?{WITH_AREA}|{NORTH_AMERICAN}|{BY_TWOS}|{NATIONAL})|{WITH_AREA}){END}"


class Kind(NamedTuple):
    """One kind of private data."""

    name: str  # in the report
    mask: str  # stands where one was
    pattern: re.Pattern[str]


KINDS = {  # key of [cleaning] -> kind, in the order of masking: an e-mail address may have digits
    "mask_emails": Kind("e-mail addresses", "[email]", re.compile(EMAIL)),
    "mask_ips": Kind("IP addresses", "[IP]", re.compile(f"{IPV4}|{IPV6}")),
    "mask_phones": Kind("phone numbers", "[phone]", re.compile(PHONE)),
}


def masked(text: str, kind: Kind) -> tuple[str, int]:
    """The text with each address or number of this kind masked, and how many there were.

    >>> masked("Ask ann@example.com, or call +1 555 123 4567.", KINDS["mask_emails"])
    ('Ask [email], or call +1 555 123 4567.', 1)
    """
    return kind.pattern.subn(kind.mask, text)
