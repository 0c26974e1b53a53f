"""`hepaseg evaluate`: a whole test set against its references.

cases.py      which scan goes with which reference
score.py      one case: segment it or take the labels there are, compare, write its folder; done once, kept
summary.py    many cases: means with bootstrap intervals, global Dice, lesions by size
tables.py     the figures as CSV and on the terminal
page.py       the figures and the worst cases as one page
run.py        all of it, one case after the other, none of which stops the rest
"""
