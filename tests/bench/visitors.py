"""Many visitors at once, as bare WebSocket clients: no browsers, which would take the cores that
the server needs.

    python tests/bench/visitors.py URL SERVER_PID VISITORS

Each opens the Start page and clicks through it without a pause: tokens and layers of the sentence,
an example sentence, a sample picture. The server has had one visitor before. Prints JSON:
``open_ms``, ``click_ms`` (one number each, of all visitors) and ``mb_per_visitor``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

from mhmoe.bench.servers import resident_mb

LAST_OUTCOME = 7  # unlimited capacity, as the page opens
BUTTONS = {3: "try-bank", 5: "sample-coffee"}
CLICKS = 8


class Visitor:
    """One session: knows the widgets it was sent, and what it has chosen in the explorer."""

    def __init__(self, socket) -> None:
        self.socket = socket
        self.widgets: dict[str, str] = {}
        self.pick: WidgetState | None = None

    async def run(self, *changed: WidgetState) -> float:
        """Rerun the script with these widgets changed; milliseconds until it is finished."""
        message = BackMsg()
        message.rerun_script.query_string = ""
        states = [state for state in (self.pick, *changed) if state is not None]
        message.rerun_script.widget_states.widgets.extend(states)
        begin = time.perf_counter()
        await self.socket.send(message.SerializeToString())
        while not self._finished(ForwardMsg.FromString(await self.socket.recv())):
            pass
        return 1000 * (time.perf_counter() - begin)

    def _finished(self, message: ForwardMsg) -> bool:
        kind = message.WhichOneof("type")
        if kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            name = element.WhichOneof("type")
            if name in ("bidi_component", "button"):
                identity = getattr(element, name).id
                self.widgets[identity.split("-", 2)[-1]] = identity
            if name == "exception":
                raise SystemExit(f"the app failed: {element.exception.message}")
        return kind == "script_finished" and message.script_finished in (
            ForwardMsg.FINISHED_SUCCESSFULLY,
            ForwardMsg.FINISHED_WITH_COMPILE_ERROR,
        )

    async def click(self, number: int) -> float:
        if name := BUTTONS.get(number % CLICKS):
            return await self.run(WidgetState(id=self.widgets[name], trigger_value=True))
        pick = {"model": 0, "layer": number % 4, "token": number % 5, "outcome": LAST_OUTCOME}
        self.pick = WidgetState(
            id=self.widgets["explorer-text"], json_value=json.dumps({"pick": pick})
        )
        return await self.run()


async def visit(url: str, number: int, there: asyncio.Barrier, done: asyncio.Event) -> tuple:
    address = f"{url.replace('http', 'ws', 1)}/_stcore/stream"
    async with websockets.connect(address, subprotocols=["streamlit"], max_size=None) as socket:
        visitor = Visitor(socket)
        await there.wait()
        opened = await visitor.run()
        clicks = [await visitor.click(number + i) for i in range(CLICKS)]
        await there.wait()
        await done.wait()  # stay connected until the memory was read
    return opened, clicks


async def crowd(url: str, pid: int, count: int) -> dict:
    """One visitor alone, who fills the caches; then all the others at once."""
    done = asyncio.Event()
    done.set()
    await visit(url, 0, asyncio.Barrier(1), done)
    before, done = resident_mb(pid), asyncio.Event()
    there = asyncio.Barrier(count + 1)
    visits = [asyncio.create_task(visit(url, v, there, done)) for v in range(count)]
    await there.wait()  # all connected
    await there.wait()  # all have clicked through
    after = resident_mb(pid)
    done.set()
    results = await asyncio.gather(*visits)
    return {
        "open_ms": [opened for opened, _ in results],
        "click_ms": [ms for _, clicks in results for ms in clicks],
        "mb_per_visitor": None if before is None else (after - before) / count,
    }


async def bounded(url: str, pid: int, count: int) -> dict:
    async with asyncio.timeout(300):
        return await crowd(url, pid, count)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(bounded(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
