"""What is removed, and how: one entry for each name of ``removals.options.removable``.

A name without an entry, and an entry without something of that name, is an error, so whoever adds an option, a hook, a
setting or a limit adds a line here:

- a field of Config, Limits, RoomOptions, PresenceOptions or ClientConfig: its name under ``_fields`` (edit ``Unread``:
  where ``config``, ``limits``, ``options`` or ``settings`` are read, the default is read instead);
- a parameter with a default: its name under ``_parameters`` (edit ``Ignored``: the default replaces what was given);
- something to register: a line with ``Unregistered``, and what the method returns, if anything;
- an option of the command: a line with ``Unparsed``;
- anything that these edits cannot say, such as a setting that is read under another name: ``Rewrite``, with a text that
  stands in that file once, and what it becomes.

The tests that mention a name are run first; ``FIRST`` names files that know better.
"""

from __future__ import annotations

from removals.edits import Edit, Ignored, Rewrite, Unparsed, Unread, Unregistered


def _fields(owner: str, names: str) -> dict[str, Edit]:
    return {f"{owner}.{name}": Unread() for name in names.split()}


def _parameters(owner: str, names: str) -> dict[str, Edit]:
    return {f"{owner}({name})": Ignored() for name in names.split()}


REMOVALS: dict[str, Edit] = {
    **_fields(
        "Config",
        "ping_interval pong_timeout read_buffer_size write_buffer_size max_connections_per_room "
        "handshake_timeout write_timeout close_timeout hook_timeout shutdown_timeout drain_rate "
        "rooms session_window trusted_proxies position_check_interval limits",
    ),
    **_fields(
        "Limits",
        "max_connections max_pending_handshakes max_header_bytes max_headers max_header_line "
        "max_target_bytes max_subprotocols max_message_bytes max_fragments message_timeout "
        "inbox_messages read_ahead_bytes max_pending_asks "
        "max_handlers handler_timeout max_depth max_id_chars max_room_name_bytes "
        "max_connections_per_address max_rooms_per_connection max_rooms outbox_messages outbox_bytes "
        "max_sessions session_messages subscription_messages subscription_bytes max_recovery",
    ),
    **_fields("RoomOptions", "capacity overflow linger authorize"),
    **_fields(
        "ClientConfig",
        "ping_interval pong_timeout handshake_timeout write_timeout close_timeout backoff_base backoff_most "
        "max_message_bytes send_messages buffer_messages buffer_bytes max_handlers",
    ),
    **_fields(
        "RoomOptions",
        "capacity overflow linger authorize allow_publish presence history_size recovery fill allow_history",
    ),
    "RoomOptions.history_bytes": Rewrite("_room_options.py", "self.history_bytes, ", "1 << 20, "),
    "RoomOptions.history_ttl": Rewrite("_room_options.py", "self.history_ttl, self", "300.0, self"),
    "RoomOptions.history_meta_ttl": Rewrite("_room_options.py", "self.history_meta_ttl)", "86_400.0)"),
    **_fields("PresenceOptions", "entry fetch interval grace max_entry_bytes max_bytes"),
    **_parameters("Sending.send", "action"),
    **_parameters("Sending.send_nowait", "action"),
    **_parameters("Sending.request", "data type"),
    **_parameters("Connection.read_json", "type"),
    **_parameters("Connection.close", "code reason"),
    **_parameters("GoNames.get_metadata", "default"),
    **_parameters("ActionError.__init__", "message temporary"),
    **_parameters("_CodedError.__init__", "message"),
    **_parameters("Refuse.__init__", "code"),
    **_parameters("Manager.__init__", "config logger middleware broker debug"),
    **_parameters("Registrar.handle_message", "concurrent"),
    **_parameters("Registrar.on", "concurrent"),
    **_parameters("Registrar.room", "options"),
    **_parameters("Registrar.page", "content_type"),
    **_parameters(
        "Manager.serve", "host port unix_path ssl_context path listeners allowed_origins transport task_status"
    ),
    **_parameters("Manager.run", "host port unix_path ssl_context path allowed_origins on_listening tune_gc"),
    **_parameters("Manager.begin_shutdown", "returning"),
    **_parameters("Publishing.broadcast_to_room", "exclude key idempotency_key skip_history"),
    **_parameters("Publishing.publish", "until exclude key idempotency_key skip_history"),
    **_parameters("Publishing.subscribe", "since overflow max_messages"),
    **_parameters("Publishing.history", "limit since reverse"),
    **_parameters("Publishing.broadcast_to_rooms", "exclude"),
    **_parameters("Publishing.broadcast_to_all", "action exclude"),
    **_parameters("Publishing.send_to_connection", "action"),
    **_parameters("Publishing.send_to_user", "action"),
    **_parameters("serve_rooms", "host port unix_path ssl_context path listeners allowed_origins transport"),
    **_parameters("Room.publish", "until exclude key idempotency_key skip_history"),
    **_parameters("Room.publish_nowait", "exclude key idempotency_key skip_history"),
    **_parameters("Room.history", "limit since reverse"),
    **_parameters("Connection.join", "since"),
    **_parameters("MemoryBroker.__init__", "max_streams max_history_bytes max_results"),
    **_parameters("Room.kick", "code message"),
    **_parameters("Room.close", "code message"),
    **_parameters("Server.begin_shutdown", "returning"),
    **_parameters("Headers.get", "default"),
    **_parameters("MemoryBroker.run", "task_status"),
    **_parameters("open_rooms", "format headers ssl_context connect handlers config"),
    **_parameters("RoomsClient.join", "data since action"),
    **_parameters("RoomsClient.room", "data since action"),
    **_parameters("RoomsClient.request", "data room idempotent"),
    **_parameters("RoomsClient.stream", "data room"),
    **_parameters("RoomsClient.send", "data room"),
    **_parameters("ClientRoom.publish", "key idempotency_key"),
    **_parameters("RequestFailed.__init__", "message temporary"),
    **_parameters("RoomEnded.__init__", "message"),
    **_parameters("ClientEnded.__init__", "reason status"),
    **_parameters("logger", "level"),
    **_parameters("recovery", "close"),
    **_parameters("LaggingBroker.__init__", "delay confirm bound step"),
    **_parameters("LaggingBroker.run", "task_status"),
    **_parameters("TestClient.__init__", "subprotocol headers trailing auto_pong"),
    **_parameters("TestClient.connect", "path host headers subprotocol auto_pong"),
    **_parameters("TestClient.send_action", "data"),
    **_parameters("TestClient.ping", "payload"),
    **_parameters("TestClient.expect_close", "code skip_messages"),
    **_parameters("TestClient.request", "data id room timeout_ms"),
    **_parameters("TestClient.stream", "data id room timeout_ms"),
    **_parameters("TestClient.close", "code reason"),
    **_parameters("FaultyStream.__init__", "one_byte_reads one_byte_writes"),
    **_parameters("FaultyStream.stall_sending", "after"),
    **_parameters("FaultyStream.receive_some", "max_bytes"),
    **_parameters("Closed.__init__", "reason"),
    **_parameters("ReplyError.__init__", "message temporary"),
    **_parameters("AskRefused.__init__", "message temporary"),
    **_parameters("Answering.answer", "data error"),
    **_parameters("client_frame", "payload fin rsv mask length length_bits"),
    **_parameters("close_payload", "reason"),
    **_parameters("handshake_bytes", "path host key subprotocol headers"),
    **_parameters("parse_server_frames", "allow_partial"),
    **_parameters("MemoryServer.open_stream", "wrap"),
    **_parameters("MemoryServer.connect", "path host headers subprotocol wrap wrap_client"),
    **_parameters("open_client", "path host headers subprotocol wrap wrap_client"),
    **_parameters("serve_in_memory", "path transport"),
    "Registrar.handle_message": Unregistered(),
    "Registrar.on": Unregistered("lambda handler: handler"),
    "Registrar.on_binary": Unregistered("handler"),
    "Registrar.on_connect": Unregistered("hook"),
    "Registrar.on_disconnect": Unregistered("hook"),
    "Registrar.on_message": Unregistered("hook"),
    "Registrar.on_error": Unregistered("hook"),
    "Registrar.on_join_room": Unregistered("hook"),
    "Registrar.on_leave_room": Unregistered("hook"),
    "Registrar.on_room_open": Unregistered("hook"),
    "Registrar.on_room_close": Unregistered("hook"),
    "Registrar.on_user_online": Unregistered("hook"),
    "Registrar.on_user_offline": Unregistered("hook"),
    "Registrar.on_session_expired": Unregistered("hook"),
    "Registrar.authenticate": Unregistered("function"),
    "Registrar.session": Unregistered("function"),
    "Registrar.use": Unregistered(),
    "Registrar.use_connection": Unregistered(),
    "Registrar.room": Unregistered(),
    "Registrar.page": Unregistered(),
    "trio-rooms --version": Rewrite("cli.py", 'action="version"', 'action="store_true"'),
    "trio-rooms --host": Unparsed(),
    "trio-rooms --port": Unparsed(),
    "trio-rooms --certfile": Unparsed(),
    "trio-rooms --keyfile": Unparsed(),
    "trio-rooms --unix-path": Unparsed(),
    "trio-rooms --verbose": Unparsed(),
    "trio-rooms --no-tune-gc": Unparsed(),
    "trio-rooms --path": Unparsed(),
    "trio-rooms --allow-origin": Unparsed(),
    "trio-rooms --trusted-proxy": Unparsed(),
}

#: Test files that are to be run first, where the name alone leads elsewhere. Tables of frames are made when a file is
#: imported; with odd ones its tests cannot be told apart, and nothing is shown.
FIRST: dict[str, tuple[str, ...]] = {
    **{name: ("tests/test_limits.py",) for name in REMOVALS if name.startswith("Limits.")},
    **{name: ("tests/testing/test_raw.py",) for name in REMOVALS if name.startswith("client_frame(")},
    "Registrar.on_user_online": ("tests/test_user_events.py",),
    "Registrar.on_user_offline": ("tests/test_user_events.py",),
    "trio-rooms --certfile": ("tests/test_cli.py::test_tls",),
}
