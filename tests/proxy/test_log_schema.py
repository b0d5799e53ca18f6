"""Migrations: they arrive at what the code expects, can be taken back, and bear several processes at once."""

import subprocess
import sys

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from proxy.log import Filters, InterventionLog, LogReader, migrate, rows
from proxy.log.connect import open_engine, parse_url, prepare_file
from proxy.log.errors import SchemaTooNew
from proxy.log.tables import metadata
from proxy.log.texts import PLAIN
from proxy.log.verify import verify
from tests.patience import PATIENCE_S
from tests.proxy.log_records import record


def test_migrations_arrive_at_the_tables_of_the_code_and_can_be_taken_back(log_url: str) -> None:
    url = parse_url(log_url)
    prepare_file(url)
    engine = open_engine(url, writes=True)
    for _ in range(2):
        assert migrate.revision(engine) is None
        migrate.upgrade(engine)
        migrate.upgrade(engine)
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
            indexes = {index["name"] for index in inspect(connection).get_indexes("interventions")}
        assert indexes == {index.name for index in metadata.tables["interventions"].indexes}
        migrate.downgrade(engine, "base")
        assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    engine.dispose()


def test_a_newer_schema_is_refused_and_left_as_it_is(log_url: str) -> None:
    url = parse_url(log_url)
    prepare_file(url)
    engine = open_engine(url, writes=True)
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("update alembic_version set version_num = '9999'")
    for opened in (InterventionLog.open, LogReader.open):
        with pytest.raises(SchemaTooNew, match=r"schema 9999.*install the version"):
            opened(log_url)
    assert migrate.revision(engine) == "9999"
    engine.dispose()


@pytest.mark.timeout(300)
def test_processes_that_start_together_make_one_log(log_url: str) -> None:
    code = (
        "import sys, anyio\n"
        "from proxy.log import InterventionLog\n"
        "from tests.proxy.log_records import record\n"
        "async def main():\n"
        "    async with InterventionLog.open(sys.argv[1]) as log:\n"
        "        await log.insert(record(id=sys.argv[2]))\n"
        "anyio.run(main)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, log_url]
    processes = [subprocess.Popen([*command, f"i{number}"], stderr=subprocess.PIPE, text=True) for number in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    engine = open_engine(parse_url(log_url), writes=False)
    with engine.connect() as connection:
        ids = connection.exec_driver_sql("select id from interventions order by id").scalars().all()
        assert connection.exec_driver_sql("select count(*) from owners").scalar_one() == 0
    engine.dispose()
    assert ids == ["i0", "i1", "i2", "i3"]


def test_an_old_log_with_records_is_upgraded_and_taken_back_and_loses_none(log_url: str) -> None:
    url = parse_url(log_url)
    prepare_file(url)
    engine = open_engine(url, writes=True)
    migrate.upgrade(engine)
    migrate.downgrade(engine, "0001")
    assert migrate.revision(engine) == "0001"
    made = [record(tenant=f"t{number % 2}") for number in range(5)]
    with engine.begin() as connection:
        for item in made:
            # As the version of that schema wrote it: without the columns that came later.
            names = [column["name"] for column in inspect(connection).get_columns("interventions")]
            values = {name: value for name, value in rows.halt_columns(item).items() if name in names}
            marks = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"insert into interventions ({', '.join(values)}) values ({marks})"), values)
            body = {"id": item.id, "body": rows.halt_body(item)}
            connection.execute(text("insert into intervention_texts values (:id, 'halt', :body)"), body)
        connection.exec_driver_sql(
            "insert into requests values ('r1', 't1', 'lrm', 'hold', 5, 'stop', 1, 1, 1, 0, 9.5)"
        )

    async def look() -> None:
        async with InterventionLog.open(log_url) as log:
            assert [await log.get(item.id) for item in made] == made
            stats = await log.stats()
            assert (stats.interventions, stats.requests, stats.halted_requests) == (5, 1, 1)
            assert (await log.stats(Filters(tenant="t1"))).by_outcome == {"open": 2}
            await log.insert(record(id="new"))
            assert (await log.stats()).interventions == 6

    anyio.run(look)
    assert verify(engine, PLAIN).problems == {}
    migrate.downgrade(engine, "0001")
    with engine.connect() as connection:
        ids = connection.exec_driver_sql("select id from interventions").scalars().all()
        bodies = connection.exec_driver_sql("select count(*) from intervention_texts").scalar_one()
    assert set(ids) == {"new", *(item.id for item in made)}
    assert bodies == 6
    anyio.run(look_again, log_url)
    engine.dispose()


async def look_again(log_url: str) -> None:
    async with InterventionLog.open(log_url) as log:
        assert (await log.stats()).interventions == 6
