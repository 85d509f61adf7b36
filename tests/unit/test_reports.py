"""What a report gathers from results, and the page that it makes of it."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkgkmod.errors import UsageError
from pkgkmod.model.kernel import Kernel, KernelOffer, KernelRelease, PackageFile
from pkgkmod.model.prediction import Prediction
from pkgkmod.model.verdict import Verdict
from pkgkmod.modules.kernelside import KernelSide
from pkgkmod.reports.facts import Cell, KernelRow
from pkgkmod.reports.gather import gather
from pkgkmod.reports.outlook import Builds, nearest, with_predictions
from pkgkmod.reports.page import page_of
from pkgkmod.reports.svg import drawn
from pkgkmod.templates import page_text
from tests.fixtures.finishedwork import LOG, finding, finished_work, hostile_facts, predicted

OLD, NEW, RT = "6.1.0-55-amd64", "6.1.0-56-amd64", "6.1.0-56-rt-amd64"


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """These results need to outlive no crash."""
    monkeypatch.setattr("pkgkmod.workspace.os.fsync", lambda file: None)


def facts_of(work, offers=(), wanted=None):
    return gather(work.project, work.folder, offers, wanted)


@pytest.fixture
def work(tmp_path):
    made = finished_work(tmp_path, modules=("foo", "bar-baz"))
    made.import_sources()
    made.build(OLD, ["foo", "bar-baz"])
    made.build(NEW, ["foo", "bar-baz"])
    made.fail(RT)
    made.package([OLD, NEW])
    made.check([OLD, NEW], ["foo", "bar_baz"], [finding("warning", f"foo.deb: /lib/modules/{NEW}/updates/foo/foo.ko")])
    made.boot(NEW, {"foo": "no device", "bar_baz": "oops"})
    return made


class Page(HTMLParser):
    """What a browser would see in a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)
        facts = [dict(attributes) for _, attributes in self.tags]
        self.ids = [one["id"] for one in facts if "id" in one]
        self.links = [one["href"] for one in facts if "href" in one]
        self.headings = [int(tag[1]) for tag, _ in self.tags if re.fullmatch("h[1-6]", tag)]
        (self.policy,) = (one["content"] for one in facts if one.get("http-equiv") == "Content-Security-Policy")

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if not self.cdata_elem:  # of style and script
            self.text += data


# --- gathering --------------------------------------------------------------------------------------


def test_without_results_there_is_nothing_to_report(tmp_path):
    with pytest.raises(UsageError, match="nothing has been made yet"):
        facts_of(finished_work(tmp_path))


def test_rows_are_kernels_newest_first_with_what_came_of_each_module(work):
    facts = facts_of(work)
    assert [(row.release, row.state) for row in facts.rows] == [(NEW, "ok"), (RT, "failed"), (OLD, "ok")]
    assert facts.modules == ("bar_baz", "foo")
    newest = facts.cells[("_", NEW), "foo"]
    assert newest.built.size == 4096
    assert newest.built.sha256 == hashlib.sha256(b"content of m0.ko").hexdigest()
    assert (work.folder / newest.built.file).is_file()
    assert [one.severity for one in newest.findings] == ["warning"]
    assert newest.boot.ending == "no device"
    assert facts.cells[("_", NEW), "bar_baz"].boot.ending == "oops"
    assert facts.cells[("_", OLD), "foo"] == Cell(built=facts.cells[("_", OLD), "foo"].built, checked=True)
    assert facts.cells[("_", RT), "foo"] == Cell()


def test_modules_of_sources_that_were_imported_anew_are_outdated(work):
    work.build(OLD, ["foo"], sources="0" * 64)
    assert {row.release: row.outdated for row in facts_of(work).rows} == {NEW: False, RT: False, OLD: True}


def test_sources_that_were_edited_by_hand_make_nothing_outdated(work):
    (edited,) = (work.folder / "results/prepare_sources").glob("*/*/*/provenance.json")
    edited.write_text("edited")
    work.build(OLD, ["foo"], sources="0" * 64)
    assert not any(row.outdated for row in facts_of(work).rows)


def test_a_kernel_that_was_booted_only_has_a_row_and_one_that_was_booted_too_early_says_so(work):
    work.boot("6.12.1-amd64", {"foo": "refused"})
    work.build(NEW, ["foo", "bar-baz"])
    facts = facts_of(work)
    assert (facts.rows[0].release, facts.rows[0].state) == ("6.12.1-amd64", "foreign")
    assert facts.cells[facts.rows[0].key, "foo"].boot.ending == "refused"
    assert "loaded, no device, before the last build" in page_of(facts)


def test_a_kernel_that_the_driver_is_not_for_is_left_out_and_no_failure(work):
    work.save("build_modules", kernel=RT, state="excluded", reason="CONFIG_PREEMPT_RT is on")
    facts = facts_of(work, wanted=[KernelRelease(RT)])
    assert {row.release: row.state for row in facts.rows}[RT] == "excluded"
    assert facts.failures == ()
    page = page_of(facts)
    assert "<small>left out: CONFIG_PREEMPT_RT is on</small>" in page
    assert "2 of 2" in page and "1 left out" in page


def test_the_newest_result_counts_and_one_of_another_version_is_no_fault(work):
    work.build(RT, ["foo"])
    work.save("build_modules", kernel=OLD, fingerprint="9" * 64)  # no artifact that is understood
    rows = {row.release: row for row in facts_of(work).rows}
    assert rows[RT].state == "ok"
    assert rows[OLD].state == "failed"
    assert facts_of(work).failures == ()


def test_what_failed_for_kernels_that_nobody_asks_for_is_left_out(work):
    wanted = {KernelRelease(NEW)}
    assert [row.release for row in facts_of(work, wanted=wanted).rows] == [NEW, OLD]
    assert not any(row.awaited for row in facts_of(work, wanted=wanted).rows)
    assert facts_of(work, wanted=wanted).failures == ()
    assert len(facts_of(work, wanted={KernelRelease(RT)}).failures) == 1


def test_a_kernel_that_is_asked_for_and_not_built_yet_has_a_row(work):
    work.build(RT, ["foo", "bar-baz"])
    facts = facts_of(work, wanted={KernelRelease(name) for name in (NEW, "6.1.0-57-amd64")})
    assert (facts.rows[0].release, facts.rows[0].awaited) == ("6.1.0-57-amd64", True)
    page = page_of(facts)
    assert "<small>not built yet</small>" in page
    assert "1 module did not load" in page
    assert "3 of 4" in page
    (work.folder / "results/boot").rename(work.folder / "booted")
    assert "1 kernel not built yet" in page_of(facts_of(work, wanted={KernelRelease("6.1.0-57-amd64")}))


def test_results_of_targets_that_the_project_has_no_more_are_left_out(work):
    work.save("build_rpm", target="el8", state="failed", reason="no")
    assert {failure.target for failure in facts_of(work).failures} == {"_"}


def test_a_failure_has_its_first_error_what_is_behind_it_and_the_lines_around(work):
    (failure,) = facts_of(work).failures
    assert failure.error.startswith("drivers/misc/foo/foo.c:12:9: error: implicit declaration of function 'strlcpy'")
    assert "strscpy" in failure.change
    assert failure.excerpt[0] == LOG.splitlines()[0]
    assert failure.log.startswith("results/build_modules/_/")


def test_a_log_tells_no_folder_of_the_machine(work):
    scratch = "/var/tmp/pkgkmod-0-0123456789ab/tmpabc/build/build/6.1.0-56-rt-amd64/drivers/misc/foo/foo.c"
    work.fail(RT, log=LOG.replace("drivers/misc/foo/foo.c", scratch))
    (failure,) = facts_of(work).failures
    assert failure.error.startswith("drivers/misc/foo/foo.c:12:9")
    assert not any("/var/tmp" in line for line in failure.excerpt)


def test_a_log_without_a_known_error_shows_its_end(work):
    work.fail(RT, log="\n".join(f"line {number}" for number in range(40)))
    (failure,) = facts_of(work).failures
    assert failure.error == ""
    assert failure.excerpt[-1] == "line 39"
    assert len(failure.excerpt) == 12


def test_signed_packages_take_the_place_of_those_that_were_signed(work):
    assert [file.signed for file in facts_of(work).files if file.kind == "deb, binary"] == [False, False]
    work.package([OLD, NEW], signed=True)
    files = facts_of(work).files
    assert [file.signed for file in files if file.kind == "deb, binary"] == [True, True]
    assert [file.kind for file in files if not file.signed] == ["driver disk, iso"]
    assert all("/sign/" in file.file and re.fullmatch("[0-9a-f]{64}", file.sha256) for file in files if file.signed)


def test_findings_of_packages_that_were_refused_are_read_from_the_file_beside_the_log(tmp_path):
    work = finished_work(tmp_path)
    result = work.save("check", target="debian12", state="failed", reason="1 error")
    assert not facts_of(work).checked
    (result.folder / "verdict.json").write_text(
        Verdict(target="x", findings=(finding("error", "foo.ko"),)).model_dump_json()
    )
    facts = facts_of(work)
    assert [(one.finding.severity, one.target) for one in facts.findings] == [("error", "debian12")]
    (result.folder / "verdict.json").write_text("{")
    assert not facts_of(work).checked


def test_programs_and_packages_of_kernels_are_provenance(work):
    package = PackageFile("linux-headers-" + NEW, "6.1.170-1", "https://deb.example.org/x.deb", "d" * 64, 7)
    offer = KernelOffer(KernelRelease(NEW), "x86_64", "apt", (package,))
    work.build(NEW, ["foo"], tree=offer.identity)
    facts = facts_of(work, [offer])
    # Other kernels were built for the headers that were installed, even if an archive has them, too.
    assert {row.release: row.packages for row in facts.rows} == {NEW: (package,), RT: (), OLD: ()}
    assert [(tool.path, tool.size) for tool in facts.tools] == [("/usr/bin/x86_64-linux-gnu-gcc-12", 1301496)]
    page = page_of(facts)
    assert "6.1.170-1" in page and "d" * 64 in page and "2025-04-07" in page
    assert f'installed, tree <code class="sum">{"c" * 64}</code>' in page


# --- predictions ------------------------------------------------------------------------------------


def row(release):
    return KernelRow(release, "_", "ok", arch="x86_64")


@pytest.mark.parametrize(
    "kernel, chosen",
    [
        ("6.1.0-57-amd64", "6.1.0-56-amd64"),
        ("6.1.0-55-rt-amd64", "6.1.0-56-rt-amd64"),
        ("6.1.0-50-amd64", "6.1.0-54-amd64"),
        ("6.1.0-55-amd64", "6.1.0-54-amd64"),
        ("6.1.0-56-cloud-amd64", "6.1.0-56-amd64"),
    ],
)
def test_a_kernel_without_modules_of_its_own_is_asked_about_those_next_to_it(kernel, chosen):
    rows = [row(name) for name in ("6.1.0-54-amd64", "6.1.0-56-amd64", "6.1.0-56-rt-amd64")]
    assert nearest(KernelSide(kernel, "x86_64", {}, {}), rows).release == chosen


def test_modules_of_another_machine_are_not_asked_about():
    assert nearest(KernelSide(NEW, "aarch64", {}, {}), [row(NEW)]) is None
    assert nearest(KernelSide(NEW, "x86_64", {}, {}), []) is None


def test_kernels_that_cannot_be_asked_are_named_with_the_reason(work):
    facts = facts_of(work)
    gone = Kernel(KernelRelease(NEW), "x86_64", work.folder / "gone", "installed", "", None)
    known = with_predictions(facts, Builds(work.project, work.folder, facts.rows), [gone])
    assert list(known.unpredicted) == [OLD, NEW]
    assert known.unpredicted[OLD] == "its headers are not here"
    assert "has no Module.symvers" in known.unpredicted[NEW]
    assert (known.predicted, known.risks, known.rows) == (True, (), facts.rows)


# --- the page ---------------------------------------------------------------------------------------


def test_the_page_is_whole(work):
    facts = predicted(facts_of(work), NEW, OLD)
    page = Page(page_of(facts))
    assert sorted(page.ids) == sorted(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(deeper - above <= 1 for above, deeper in pairwise(page.headings))
    assert page.tags[0] == ("html", {"lang": "en"})
    assert {"header", "nav", "main", "footer", "title"} <= {tag for tag, _ in page.tags}
    said = (
        "1 step failed,refused,loaded, no device,crashed,1 warning,another CRC,3 more symbols,modules of 6.1.0-55-amd64"
    )
    for word in [*said.split(","), "strscpy", "symbol9", "after usbcore", "0001-fix.patch", "acme"]:
        assert word in page.text, word
    assert "symbol10" not in page.text


def test_the_page_allows_its_own_style_and_script_and_nothing_else(work):
    text = page_of(predicted(facts_of(work), NEW, OLD))
    page = Page(text)
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules.keys() == {"default-src", "style-src", "script-src", "base-uri", "form-action"}
    assert {rules[name] for name in ("default-src", "base-uri", "form-action")} == {"'none'"}
    for tag in ("style", "script"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    for tag, facts in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "form", "base"), tag
        assert not [name for name in facts if name.startswith("on") or name in ("style", "src", "srcset", "action")]


def test_the_same_results_make_the_same_page_whatever_the_time_zone(work, monkeypatch):
    first = page_of(facts_of(work))
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    assert page_of(facts_of(work)) == first
    assert "GMT" not in first and "UTC" in first


def test_hostile_texts_stay_text(tmp_path):
    text = page_of(hostile_facts(tmp_path))
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [facts for _, facts in page.tags if "onerror" in facts or "src" in facts]
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
    assert r"\u202egnp\x1b[31m" in page.text
    assert "'\"&{{ 7 * 7 }}" in page.text and "'\"&49" not in page.text
    assert "n" * 200 not in text and "x" * 5000 not in text


def test_a_large_matrix_stays_small(tmp_path):
    modules = [f"module_of_some_length_{number}" for number in range(30)]
    work = finished_work(tmp_path, modules=modules)
    work.build(NEW, modules)
    facts = facts_of(work)
    rows = tuple(replace(facts.rows[0], release=f"6.1.0-{number}-amd64") for number in range(60))
    prediction = Prediction(module="m", path="x", built_for=NEW, kernel=NEW, verdict="loads", needs=("usbcore", "mii"))
    full = replace(facts.cells[("_", NEW), modules[0]], prediction=prediction, findings=(finding("note", "x"),) * 2)
    cells = {(one.key, name): full for one in rows for name in facts.modules}
    page = page_of(replace(facts, rows=rows, cells=cells, predicted=True, checked=True))
    assert len(page.encode()) < 3_000_000
    assert page.count('<td data-v="2"') == 1800


def test_a_project_of_which_only_sources_are_there_has_a_page(tmp_path):
    work = finished_work(tmp_path)
    work.import_sources()
    page = Page(page_of(facts_of(work)))
    for text in ("nothing built yet", "No modules were built.", "No packages were made.", "were not checked"):
        assert text in page.text


def test_one_failure_on_many_kernels_is_told_once(work):
    work.fail("6.1.0-57-amd64")
    page = page_of(facts_of(work))
    assert page.count('<article class="failure">') == 1
    assert f"<li>{RT}</li><li>6.1.0-57-amd64</li>" in page


# --- texts ------------------------------------------------------------------------------------------


def test_texts_are_made_visible_and_cut():
    assert page_text("a\u2066b\x00c\n\td") == "a\\u2066b\\x00c\n\td"
    assert page_text("x" * 1100) == "x" * 1000 + "… (100 more characters)"
    assert page_text(7) == 7


def test_backquotes_make_code(tmp_path):
    work = finished_work(tmp_path)
    work.check([], [], [finding("note", "x", "one ` alone", "run `pkgkmod <sign>` now")])
    page = page_of(facts_of(work))
    assert "run <code>pkgkmod &lt;sign&gt;</code> now" in page
    assert "one ` alone" in page


# --- the drawing ------------------------------------------------------------------------------------


def test_needs_stand_right_of_what_needs_them():
    drawing = drawn(["a", "b", "c"], [("a", "b"), ("b", "c"), ("a", "c")])
    boxes = {box.name: box for box in drawing.boxes}
    assert boxes["a"].x < boxes["b"].x < boxes["c"].x
    assert len(drawing.lines) == 3
    assert drawn([], []).boxes == ()


def test_lines_bend_between_layers_only():
    drawing = drawn(["a", "long-name", "end"], [("a", "end"), ("long-name", "end")])
    boxes = {box.name: box for box in drawing.boxes}
    side = boxes["long-name"].x + boxes["long-name"].width
    assert drawing.lines[0].startswith(f"M{boxes['a'].x + boxes['a'].width:.1f} ")
    assert f"H{side:.1f}C" in drawing.lines[0]
    assert drawing.lines[0].endswith(f" {boxes['end'].x:.1f} {boxes['end'].y + boxes['end'].height / 2:.1f}")


names = st.sampled_from("abcdefgh")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(names, names), max_size=20, unique=True))
def test_no_boxes_overlap_and_circles_end(edges):
    nodes = sorted({name for edge in edges for name in edge})
    drawing = drawn(nodes, edges)
    assert sorted(box.name for box in drawing.boxes) == nodes
    for one in drawing.boxes:
        assert 0 <= one.x <= one.x + one.width <= drawing.width
        assert 0 <= one.y <= one.y + one.height <= drawing.height
        for other in drawing.boxes:
            apart = one.x + one.width <= other.x or other.x + other.width <= one.x
            assert one is other or apart or one.y + one.height <= other.y or other.y + other.height <= one.y
    assert drawn(nodes, edges) == drawing
