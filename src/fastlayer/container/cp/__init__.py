"""``cp``: files between writable layers and the file system outside, as `docker cp` does it.

spot     where a path leads within a root that nothing leads out of
put      copies that are complete before anything is changed, then moved to their places
behind   the directories behind an overlay's, through which data is shared
archive  the same as a tar
copying  the rules: what is copied to which name
"""
