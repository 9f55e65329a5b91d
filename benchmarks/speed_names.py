"""Made-up class names, so that the benchmark needs no data set."""

import random

ADJECTIVES = """
alpine arctic barred bearded black blue branded brown canyon common coastal crested dark desert
dusky eastern false field giant golden great green grey hairy hooded island lesser little long marsh
meadow mountain northern orange painted pale plain prairie purple ringed river rock royal rusty sand
scarlet shore silver slender smooth southern spotted striped swamp tawny timber tufted velvet
western white wild winter yellow
"""
BEGINNINGS = """
arrow bell blade bone bristle butter button cap cotton crown fire flag foam glass hair horn iron
jewel lace lamp leaf milk moon needle paper pearl pepper pin plume reed ribbon saddle sail salt
shell sickle silk snow spear spoon star stone straw sun thistle thorn thread tide wax whip wind wing
wool
"""
ENDS = """
back beak bill bird bloom bush cap crest daisy fin finch fish flower fly foot fox grass hawk head
jay lark lily lizard mouse moth nettle nut owl palm poppy ray root seal snail snake snipe tail
thrush toad top tree vine weed wing worm wort wren
"""
SHARES = (0.45, 0.45, 0.07, 0.03)
"""Of names of one to four words. A name then has 5.0 tokens on average, "." and EOT among them, a little more
than in Flowers102 (4.5) and in ImageNet (3.9)."""


def made_up_names(number: int) -> list[str]:
    """Return different names of one to four words; the first ones are the same whatever the number."""
    draw, names = random.Random(0), dict[str, None]()
    adjectives, beginnings, ends = ADJECTIVES.split(), BEGINNINGS.split(), ENDS.split()
    while len(names) < number:
        more = draw.choices(range(len(SHARES)), SHARES)[0]
        noun = draw.choice(beginnings) + draw.choice(ends)
        names[" ".join([*draw.sample(adjectives, more), noun])] = None
    return list(names)
