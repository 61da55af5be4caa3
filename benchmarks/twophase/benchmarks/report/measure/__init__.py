"""Measuring: everything that the report says, in one run on one system.

    results = await measure(Suite.QUICK, seed=1, progress=print, guardian=guardian)

Lives here: the run of all sections. Must not live here: a section (`sections`), sizes (`plan`), words and drawings.
"""
