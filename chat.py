import attrs
import trio

from trio_rooms import Connection, Manager, serve_rooms

manager = Manager()


@attrs.frozen
class Subscribe:
    room_id: str


@manager.on("subscribe")  # data is decoded and validated against the annotation
async def subscribe(conn: Connection, data: Subscribe) -> dict[str, str]:
    await conn.join(data.room_id)
    return {"status": "subscribed", "room": data.room_id}  # the reply, if the message carried an id


@manager.on("say")
def say(conn: Connection, text: str) -> None:
    for room in conn.rooms:
        manager.broadcast_to_room(room, {"from": conn.id, "text": text})


async def main() -> None:
    async with serve_rooms(manager, port=8080) as server:
        print(server.url)
        await server.wait_closed()


if __name__ == "__main__":
    trio.run(main)
