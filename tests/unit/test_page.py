# SPDX-License-Identifier: Apache-2.0
"""Page: its document and scripts, as served to a browser."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from flask import Flask
from werkzeug.test import Client, TestResponse

from airflow_asyncaction.web.routes.page import page_blueprint

STATIC = resources.files("airflow_asyncaction.web") / "static"
SCRIPTS = sorted(file.name for file in STATIC.iterdir() if file.name.endswith(".js"))
VIEWS = ("", "dag/d", "run/d/manual__2026-11-24T18:00:00+00:00", "task/d/a%2Fb/t/%7BMAP_INDEX%7D", "action/1")


@pytest.fixture(scope="module")
def client() -> Client:
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False
    app.register_blueprint(page_blueprint())
    return Client(app)


def get(client: Client, path: str, root: str = "/async") -> TestResponse:
    return client.get(path, environ_overrides={"SCRIPT_NAME": root})


def source(name: str) -> str:
    return (STATIC / name).read_text()


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_the_same_document(client: Client, view: str) -> None:
    answer = get(client, f"/ui/{view}")
    assert (answer.status_code, answer.content_type) == (200, "text/html; charset=utf-8")
    assert answer.text == get(client, "/ui/").text


@pytest.mark.parametrize(
    ("root", "airflow"), [("", ""), ("/async", ""), ("/af/async", "/af"), ('/"><script>', "")]
)
def test_the_document_knows_where_it_is_mounted(client: Client, root: str, airflow: str) -> None:
    html = get(client, "/ui/", root).text
    written = root.replace('"', "&#34;").replace("<", "&lt;").replace(">", "&gt;")
    assert f'data-root="{written}" data-airflow="{airflow}"' in html
    assert html.count("<script") == 1


@pytest.mark.parametrize("path", ["/ui/", "/ui/static/other/main.js", "/ui/static/other/style.css"])
def test_nothing_from_elsewhere_runs(client: Client, path: str) -> None:
    headers = get(client, path).headers
    policy = headers["Content-Security-Policy"].split("; ")
    assert "default-src 'none'" in policy
    assert not any("unsafe" in each or "http" in each or "data:" in each for each in policy)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


def test_files_are_kept_under_their_version_only(client: Client) -> None:
    document = get(client, "/ui/")
    assert document.headers["Cache-Control"] == "no-cache"
    urls = re.findall(r'(?:src|href)="/async(/ui/static/[^"]+)"', document.text)
    assert len(urls) == 3
    for url in urls:
        assert "immutable" in get(client, url).headers["Cache-Control"]
        other = re.sub("static/[^/]+", "static/other", url)
        assert get(client, other).headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", ["index.html", "none.js", "..%2Fpage.py", "..%2F..%2Fpage.py"])
def test_other_files_are_not_served(client: Client, name: str) -> None:
    answer = get(client, f"/ui/static/other/{name}")
    assert answer.status_code == 404 or answer.text == get(client, "/ui/").text


def test_the_document_has_no_script_or_style_of_its_own(client: Client) -> None:
    html = get(client, "/ui/").text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*src=)", html)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_no_markup_of_data(name: str) -> None:
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc"
    assert not re.search(rf"{markup}|\beval\b|new Function|https?:", source(name))


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_import_what_is_there(client: Client, name: str) -> None:
    for imported in re.findall(r'from "\./([^"]+)"', source(name)):
        answer = get(client, f"/ui/static/other/{imported}")
        assert (answer.status_code, answer.content_type) == (200, "text/javascript; charset=utf-8")


def test_the_style_sheet_loads_nothing() -> None:
    assert not re.search(r"url\(|@import|@font-face", source("style.css"))
