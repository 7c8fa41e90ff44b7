"""Boroughs of the taxi zones of New York, as the city's Taxi and Limousine Commission publishes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_ZONES: Final = {
    "Bronx": """3 18 20 31-32 46-47 51 58-60 69 78 81 94 119 126 136 147 159 167-169 174 182-185 199-200 208 212-213 220
        235 240-242 247-248 250 254 259""",
    "Brooklyn": """11 14 17 21-22 25-26 29 33-37 39-40 49 52 54-55 61-63 65-67 71-72 76-77 80 85 89 91 97 106 108
        111-112 123 133 149-150 154-155 165 177-178 181 188-190 195 210 217 222 225 227-228 255-257""",
    "Manhattan": """4 12-13 24 41-43 45 48 50 68 74-75 79 87-88 90 100 103-105 107 113-114 116 120 125 127-128 137
        140-144 148 151-153 158 161-164 166 170 186 194 202 209 211 224 229-234 236-239 243-244 246 249 261-263""",
    "Queens": """2 7-10 15-16 19 27-28 30 38 53 56-57 64 70 73 82-83 86 92-93 95-96 98 101-102 117 121-122 124 129-132
        134-135 138-139 145-146 157 160 171 173 175 179-180 191-193 196-198 201 203 205 207 215-216 218-219 223 226
        252-253 258 260""",
    "Staten Island": "5-6 23 44 84 99 109-110 115 118 156 172 176 187 204 206 214 221 245 251",
    "Newark Airport": "1",
}

ELSEWHERE: Final = "Elsewhere"
"""Borough of a zone that is not in the city's list, or in it as unknown."""
BOROUGHS: Final = (*_ZONES, ELSEWHERE)
"""A borough's place in here is its number."""
NO_NUMBER: Final = -1
"""Number of a zone whose id is not one of the city's numbers."""


def _numbers(text: str) -> Iterator[int]:
    for part in text.split():
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


_BOROUGH_OF: Final = {number: borough for borough, zones in enumerate(_ZONES.values()) for number in _numbers(zones)}


def number_of(zone: str) -> int:
    """The city's number of a zone, or NO_NUMBER."""
    number = int(zone) if zone.isascii() and zone.isdigit() else NO_NUMBER
    return number if number in _BOROUGH_OF else NO_NUMBER


def borough_of(zone: str) -> int:
    """The number of a zone's borough."""
    return _BOROUGH_OF.get(number_of(zone), len(BOROUGHS) - 1)
