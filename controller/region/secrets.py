"""Says where what nobody may read again is kept: beside the records, under keys of its own, so that no read of a record has it."""


def user_data_key(server_uid: str) -> str:
    return f"secret/user-data/{server_uid}"
