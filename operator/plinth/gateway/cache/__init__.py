"""Answers given twice: which requests ask the same, what is kept of an answer, who shares one under way. Pure.

Nothing is shared unless the caller's policy asks for it, and nothing ever between tenants: the tenant is part of
the key. A repeated answer counts as one request against limits on requests and as nothing else. No engine worked
for it, so it takes no tokens; whoever's request was computed has paid for them.
"""
