from ._record import Record
def check(record, settings):
    return []
