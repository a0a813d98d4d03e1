"""The command line: what verbs take (``declare``), how it is read (``reading``), and how it is explained (``clicked``).

A line that is right is read without click, whose loading takes longer than many a verb. Help, completion and whatever
is wrong with a line are click's, from the same declarations; a test holds the two readings against each other.
"""
