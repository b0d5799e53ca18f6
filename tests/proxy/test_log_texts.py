"""What is kept of people's text, redacted how, encrypted with which key; and that no word of it is anywhere else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import create_engine, inspect

from proxy.errors import ConfigError
from proxy.log import InterventionLog, LogReader
from proxy.log.cipher import Cipher, new_key
from proxy.log.connect import open_engine, parse_url
from proxy.log.errors import KeyUnusable, TextLocked
from proxy.log.setup import make_options, make_texts
from proxy.log.spool import SpoolPlace
from proxy.log.store import LogOptions
from proxy.log.texts import TextKeeper
from proxy.log.upkeep import rekey
from proxy.settings import LogSettings
from steer.record import InterventionRecord, TextSpan
from tests.proxy.log_records import completion, record
from tests.proxy.test_log_spool import outage, until

pytestmark = pytest.mark.anyio

SECRET = "Erika Mustermann"


def spoken() -> InterventionRecord:
    """A record that names somebody in every text."""
    return record(
        messages=[{"role": "user", "content": [{"type": "text", "text": f"I am {SECRET}"}]}],
        tools=[{"type": "function", "function": {"name": "f", "description": f"for {SECRET}"}}],
        kept=TextSpan(text=f"{SECRET} asks. ", token_ids=[1]),
        rejected=TextSpan(text=f"For {SECRET}", token_ids=[2]),
    )


ENDING = completion(continuation=TextSpan(text=f" {SECRET}", token_ids=[3]), answer=f"Dear {SECRET}")


def everything(log_url: str) -> str:
    """All that is in the database, as text."""
    engine = create_engine(log_url)
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names()
        found = [str(row) for name in tables for row in connection.exec_driver_sql(f"select * from {name}")]
    engine.dispose()
    return "\n".join(found)


async def written(log_url: str, texts: TextKeeper, folder: Path) -> InterventionRecord:
    """The record as it comes back; it went through the spool on its way, which is looked at as well."""
    sent, place = spoken(), SpoolPlace(folder / "spool", 1 << 20)
    async with InterventionLog.open(log_url, LogOptions(texts=texts, spool=place)) as log:
        with outage(log_url):
            await log.insert(sent)
            await log.complete(sent.id, ENDING)
            spooled = "".join(path.read_text() for path in place.folder.iterdir())
        await until(lambda: log.spooled_bytes == 0)
        assert (SECRET in spooled) == (texts.redact is None and texts.cipher is None and texts.store != "none")
        found = await log.get(sent.id)
    assert found.model_copy(update={"completion": None}).id == sent.id
    return found


async def test_without_text_a_record_keeps_scores_and_timings_and_nothing_that_decodes_to_text(
    log_url: str, tmp_path: Path
) -> None:
    found = await written(log_url, TextKeeper(store="none"), tmp_path)
    assert SECRET not in everything(log_url)
    assert (found.messages, found.tools, found.prompt_token_ids) == ([], None, None)
    assert (found.kept, found.rejected) == (TextSpan(), TextSpan())
    assert found.completion is not None
    assert (found.completion.continuation, found.completion.answer) == (TextSpan(), "")
    assert (found.score, found.outcome, found.timings.verdict_ms) == (0.9, "completed", 3.25)
    assert found.completion.timings == ENDING.timings


async def test_what_was_redacted_is_nowhere_and_its_ids_are_gone_with_it(log_url: str, tmp_path: Path) -> None:
    found = await written(log_url, TextKeeper(redact=lambda text: text.replace(SECRET, "[name]")), tmp_path)
    assert SECRET not in everything(log_url)
    assert found.messages == [{"role": "user", "content": [{"type": "text", "text": "I am [name]"}]}]
    assert found.kept == TextSpan(text="[name] asks. ")
    assert found.prompt_token_ids is None
    assert found.completion is not None
    assert found.completion.continuation == TextSpan(text=" [name]")
    assert found.trigger.token_ids == [7, 8], "not the client's, and not changed"


async def test_what_the_hook_leaves_alone_keeps_its_ids(log_url: str) -> None:
    sent = record()
    async with InterventionLog.open(log_url, LogOptions(texts=TextKeeper(redact=lambda text: text))) as log:
        await log.insert(sent)
        assert await log.get(sent.id) == sent


@pytest.mark.parametrize("hook", [lambda text: text[9999], lambda text: None])
async def test_a_hook_that_fails_costs_the_text_and_never_the_record(
    log_url: str, tmp_path: Path, hook: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    found = await written(log_url, TextKeeper(redact=hook), tmp_path)
    assert (found.messages, found.outcome) == ([], "completed")
    assert SECRET not in everything(log_url) + caplog.text
    assert "log.redact failed" in caplog.text


async def test_encrypted_text_is_read_with_its_key_alone_and_keys_rotate(log_url: str, tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    await written(log_url, TextKeeper(cipher=Cipher([old])), tmp_path)
    assert SECRET not in everything(log_url)
    async with LogReader.open(log_url) as reader:
        record_id = (await reader.list()).items[0].id
        with pytest.raises(TextLocked, match=r"log\.encryption_key"):
            await reader.get(record_id)
    engine = open_engine(parse_url(log_url), writes=True)
    both = TextKeeper(cipher=Cipher([new, old]))
    assert sum(rekey(engine, both)) == 2
    assert sum(rekey(engine, both)) == 0
    engine.dispose()
    async with LogReader.open(log_url, TextKeeper(cipher=Cipher([old]))) as reader:
        with pytest.raises(TextLocked, match="add the key"):
            await reader.get(record_id)
    async with LogReader.open(log_url, TextKeeper(cipher=Cipher([new]))) as reader:
        assert SECRET in (await reader.get(record_id)).model_dump_json()


async def test_a_log_that_was_written_in_the_clear_is_encrypted_afterwards(log_url: str) -> None:
    async with InterventionLog.open(log_url) as log:
        sent = spoken()
        await log.insert(sent)
    texts = TextKeeper(cipher=Cipher([new_key()]))
    engine = open_engine(parse_url(log_url), writes=True)
    assert sum(rekey(engine, texts)) == 1
    engine.dispose()
    assert SECRET not in everything(log_url)
    async with LogReader.open(log_url, texts) as reader:
        assert (await reader.get(sent.id)).kept == sent.kept


def test_settings_give_keys_by_value_and_by_file_the_first_of_them_encrypts(tmp_path: Path) -> None:
    first, second, third = new_key(), new_key(), new_key()
    (tmp_path / "keys").write_text(f"# older\n{third}\n")
    settings = LogSettings.model_validate(
        {"encryption_key": f"{first}, {second}", "encryption_key_file": tmp_path / "keys"}
    )
    texts = make_texts(settings)
    sealed = texts.seal("text")
    assert Fernet(first).decrypt(sealed.removeprefix("fernet:")) == b"text"
    for key in (second, third):
        assert texts.open("fernet:" + Fernet(key).encrypt(b"text").decode()) == "text"


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"encryption_key": "short"}, KeyUnusable, "new-key"),
        ({"encryption_key": ""}, KeyUnusable, "new-key"),
        ({"encryption_key_file": "/nowhere"}, KeyUnusable, "/nowhere"),
        ({"redact": "no_such_module:f"}, ConfigError, "no_such_module"),
        ({"redact": "json:nothing"}, ConfigError, "json:nothing"),
        ({"redact": "sys:path"}, ConfigError, "no function"),
    ],
)
def test_a_wrong_setting_for_text_is_refused_by_name(
    values: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make_options(LogSettings.model_validate(values))


def test_keys_are_masked_where_settings_are_shown() -> None:
    from proxy.settings import Settings, dump_settings, restore_settings

    settings = Settings.model_validate({"log": {"encryption_key": "hunter2"}})
    assert "hunter2" not in settings.shown()
    restored = restore_settings(dump_settings(settings)).log.encryption_key
    assert restored is not None
    assert restored.get_secret_value() == "hunter2"
    assert json.loads(settings.shown())["log"]["encryption_key"]
