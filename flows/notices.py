"""Notices to people, by Prefect's notification blocks: Slack, Teams, e-mail, a webhook, ….

A flow with a parameter ``notify`` names the block, as ``type/name``; where the notice goes, and the
secret that this takes, are in the block alone. Make one in Prefect's UI, or like this::

    from prefect.blocks.notifications import SlackWebhook
    SlackWebhook(url=getpass()).save("nights")          # then notify="slack-webhook/nights"

A notice says which flow ended how, the counts, and where to read on. What a run cannot tell of,
such as the end of its machine, the automations in ``deploy/notices.yaml`` see.
"""

import asyncio
from inspect import isawaitable
from typing import Any, cast

import prefect.blocks.notifications  # noqa: F401 - makes Prefect's own kinds of blocks known
from prefect import Flow, State
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.client.schemas.objects import FlowRun
from prefect.logging.loggers import flow_run_logger
from prefect.utilities.urls import url_for

INCOMPLETE = "Incomplete"
"""State of a run that came to its end with some slides failed. Its message has counts and no names,
and is the one message that notices tell: an error's words name files, and files may name patients.
"""

PATIENCE_S = 30.0


async def tell_of_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell the block that the run's parameter ``notify`` names; a hook for a flow's bad ends.

    It runs in the flow's process if that has failed, and in its worker's if that has crashed.
    """
    block = flow_run.parameters.get("notify")
    if not block:
        return
    log = flow_run_logger(flow_run, flow)
    subject, body = notice(flow, flow_run, state)
    try:
        async with asyncio.timeout(PATIENCE_S):
            notifier = cast("NotificationBlock", await Block.aload(block))
            with notifier.raise_on_failure():
                sending: object = notifier.notify(body, subject)
                if isawaitable(sending):
                    await sending
    except Exception as error:  # noqa: BLE001 - a block's code is anyone's, and the run comes first
        # The error's own words may hold the address, and the secret in it.
        log.warning(
            "No notice was sent: the block %s gave a %s. Try the block in Prefect's UI.",
            block,
            type(error).__name__,
        )
    else:
        log.info("A notice was sent by the block %s.", block)


def notice(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> tuple[str, str]:
    """Return subject and body."""
    counts = state.message if state.name == INCOMPLETE else None
    where = url_for("flow-run", flow_run.id) or f"flow run {flow_run.id}"
    return f"{flow.name}: {state.name}", "\n".join(filter(None, (counts, where)))
