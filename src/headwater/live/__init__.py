"""How people see data within milliseconds, at no cost while nobody looks.

    watch.py         which tenants and devices are watched; how gateways learn it
    feed.py          a gateway's copies of what is watched
    event.py         a record as a watcher sees it
    mailbox.py       one watcher's bounded buffer
    selection.py     which devices a watcher means
    replay.py        what the LIVE stream still has
    tenant_feed.py   one watched tenant in an API server: batches in, events out
    hub.py           all of them

Live delivery is best effort beside the store: nothing here may slow down or fail what a device sent. What a watcher did
not get is always said ("missed"), never passed over.
"""
