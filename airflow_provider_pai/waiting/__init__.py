"""Are the awaited runs there?"""
