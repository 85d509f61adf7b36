"""The page of a report in a real browser: it works, it is quiet, and everybody can read it."""

from dataclasses import replace

import pytest

from pkgkmod.reports.gather import gather
from pkgkmod.reports.page import page_of
from tests.fixtures.browser import browser, served
from tests.fixtures.finishedwork import finding, finished_work, hostile_facts, predicted

OLD, NEW, RT = "6.1.0-55-amd64", "6.1.0-56-amd64", "6.1.0-56-rt-amd64"


pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    work = finished_work(tmp_path_factory.mktemp("work"), modules=("foo", "bar"))
    work.import_sources()
    for kernel in (OLD, NEW):
        work.build(kernel, ["foo", "bar"])
    work.fail(RT)
    work.package([OLD, NEW], signed=True)
    where = f"foo.deb: /lib/modules/{NEW}/updates/foo/foo.ko"
    found = [finding("error", where), finding("warning", where, "late"), finding("note", where), finding("note", "z")]
    work.check([OLD, NEW], ["foo", "bar"], found)
    work.boot(NEW, {"foo": "no device", "bar": "oops"})
    return predicted(gather(work.project, work.folder), NEW, OLD)


@pytest.fixture(scope="module")
def address(facts):
    """Address of a page that has everything that a page can have."""
    with served(page_of(facts)) as (url, _):
        yield url


@pytest.fixture(scope="module")
def wide(facts):
    """Address of a page with 30 modules and 60 kernels."""
    modules = tuple(f"module_{number:02}" for number in range(30))
    rows = tuple(replace(facts.rows[1], release=f"6.1.0-{number}-amd64", boot=None) for number in range(60, 0, -1))
    cells = {(row.key, name): facts.cells[facts.rows[1].key, "foo"] for row in rows for name in modules}
    with served(page_of(replace(facts, modules=modules, rows=rows, cells=cells))) as (url, _):
        yield url


def kernels(page):
    return page.do("[...document.querySelectorAll('#matrix-table tbody tr')].filter(r => !r.hidden)"
                   ".map(r => r.querySelector('th a').textContent)")  # fmt: skip


def open_details(page):
    """Open what is folded; of many kernels, some."""
    page.do("[...document.querySelectorAll('details')].slice(0, 20).forEach(one => one.open = true)")


def type_into(page, selector, text):
    page.do(f"document.querySelector('{selector}').focus(); document.querySelector('{selector}').value = ''")
    page.call("Input.insertText", text=text)


def pick(page, table, value):
    page.do(f"""(() => {{ const one = document.querySelector('select[data-pick="{table}"]'); one.value = '{value}';
            one.dispatchEvent(new Event('change')); }})()""")


def test_nothing_is_asked_for_and_nothing_is_complained_about(chromium, facts):
    with served(page_of(facts)) as (url, asked):
        page = chromium.open(url)
        open_details(page)
        page.do("fetch('/x').catch(() => 0).then(() => 1)")
        assert asked == ["/report.html"]
        stopped = [text for text in page.complaints if "/x" in text]
        assert stopped and page.complaints == stopped  # only what this test tried
        assert page.requests[0] == url


def test_hostile_texts_stay_text_and_in_their_place(chromium, tmp_path):
    with served(page_of(hostile_facts(tmp_path))) as (url, asked):
        page = chromium.open(url, width=360, height=740)
        open_details(page)
        assert asked == ["/report.html"] and page.complaints == []
        assert page.do("document.scripts.length") == 1
        assert page.do("document.images.length") == 0
        assert page.do("document.documentElement.scrollWidth") <= 360


def test_headings_sort_by_mouse_and_by_keyboard(chromium, address):
    page = chromium.open(address)
    first = kernels(page)
    assert first == ["6.12.1-amd64", NEW, RT, OLD]
    head = "#matrix-table th:nth-child(1)"
    assert page.do(f"document.querySelector('{head}').getAttribute('aria-sort')") == "none"
    page.do(f"document.querySelector('{head} button').focus()")
    page.press("Enter")
    assert kernels(page) == first
    assert page.do(f"document.querySelector('{head}').getAttribute('aria-sort')") == "ascending"
    page.press("Space")
    assert kernels(page) == first[::-1]
    assert page.do(f"document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
    foo = "#matrix-table th:nth-child(3)"
    assert page.do(f"document.querySelector('{foo}').textContent") == "foo"
    page.do(f"document.querySelector('{foo} button').click()")
    assert kernels(page) == [RT, NEW, "6.12.1-amd64", OLD]  # what is bad first
    assert page.do(f"document.querySelector('{head}').getAttribute('aria-sort')") == "none"


def test_sizes_sort_as_numbers(chromium, address):
    page = chromium.open(address)
    page.do("document.querySelector('#files-table th:nth-child(4) button').click()")
    sizes = page.do("[...document.querySelectorAll('#files-table tbody tr')].map(r => Number(r.cells[3].dataset.v))")
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_the_matrix_shows_the_kernels_and_modules_that_are_looked_for(chromium, address):
    page = chromium.open(address)
    type_into(page, "[data-rows=matrix-table]", "RT amd64")
    assert kernels(page) == [RT]
    assert page.do("document.querySelector('[data-count=matrix-table]').textContent") == "1 of 4 shown"
    type_into(page, "[data-rows=matrix-table]", " ")
    assert len(kernels(page)) == 4
    pick(page, "matrix-table", "bad")
    assert kernels(page) == [NEW, RT]
    pick(page, "matrix-table", "bad warn")
    assert kernels(page) == ["6.12.1-amd64", NEW, RT]
    type_into(page, "[data-columns]", "fo")
    heads = "[...document.querySelectorAll('#matrix-table thead th')]"
    shown = f"{heads}.filter(one => !one.hidden).map(one => one.textContent)"
    assert page.do(shown) == ["Kernel", "foo"]
    assert not page.do("document.querySelector('#matrix-table tbody tr').cells[1].checkVisibility()")


def test_findings_are_filtered_by_severity_and_by_words(chromium, address):
    page = chromium.open(address)
    shown = "[...document.querySelectorAll('#findings-table tbody tr')].filter(r => !r.hidden).map(r => r.dataset.pick)"
    assert page.do(shown) == ["error", "warning", "note"]
    pick(page, "findings-table", "error warning")
    assert page.do(shown) == ["error", "warning"]
    type_into(page, "[data-rows=findings-table]", "late")
    assert page.do(shown) == ["warning"]
    assert page.do("document.querySelector('[data-count=findings-table]').textContent") == "1 of 3 shown"


@pytest.mark.parametrize("script", [True, False])
def test_colours_follow_the_system_or_the_choice(chromium, address, script):
    page = chromium.open(address, dark=True, script=script)
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.do(colour)
    page.do("document.querySelector('#theme-light').click()")
    light = page.do(colour)
    page.do("document.querySelector('#theme-dark').click()")
    assert page.do(colour) == dark != light
    assert chromium.open(address, script=script).do(colour) == light


def test_every_cell_leads_to_its_details_which_open(chromium, address):
    page = chromium.open(address)
    links = page.do("[...document.querySelectorAll('#matrix-table a, #findings-table a')].map(a => a.hash)")
    assert len(links) > 8
    for link in dict.fromkeys(links):
        page.do(
            f"new Promise(done => {{ addEventListener('hashchange', done, {{once: true}}); location.hash = '{link}' }})"
        )
        assert page.do(f"document.querySelector('{link}').checkVisibility()"), link


def test_without_its_script_everything_is_there_and_nothing_pretends_to_work(chromium, address):
    page = chromium.open(address, script=False)
    assert page.do("document.querySelectorAll('th button').length") == 0
    assert page.do("[...document.querySelectorAll('.controls')].every(one => !one.checkVisibility())")
    assert len(kernels(page)) == 4
    page.do("document.querySelectorAll('summary').forEach(one => one.click())")
    assert page.do("[...document.querySelectorAll('main tr, main article')].every(one => one.checkVisibility())")


def test_on_paper_there_is_all_of_it_and_nothing_to_press(chromium, address):
    page = chromium.open(address, dark=True)
    page.call("Emulation.setEmulatedMedia", media="print")
    assert not page.do("document.querySelector('nav').checkVisibility()")
    assert not page.do("document.querySelector('input').checkVisibility()")
    assert page.do("document.querySelector('#k2m1').getBoundingClientRect().height") > 0
    assert page.do("getComputedStyle(document.body).colorScheme") == "light"
    assert page.do("[...document.querySelectorAll('.box')].every(one => one.scrollWidth <= one.clientWidth + 1)")


@pytest.mark.parametrize("name", ["address", "wide"])
def test_a_phone_needs_no_sideways_scrolling(chromium, request, name):
    page = chromium.open(request.getfixturevalue(name), width=360, height=740)
    open_details(page)
    assert page.do("document.documentElement.scrollWidth") <= 360
    assert page.do("document.body.scrollWidth") <= 360
    outside = """[...document.querySelectorAll('main *')].filter(one => !one.closest('.box, pre, .hidden')
                 && one.getBoundingClientRect().right > 360).map(one => one.outerHTML.slice(0, 99))"""
    assert page.do(outside) == []


def test_the_headings_of_a_large_matrix_stay_in_sight(chromium, wide):
    page = chromium.open(wide)
    page.do("document.querySelector('.tall').scrollTo(9999, 9999)")
    found = page.do("""(() => {
        const box = document.querySelector('.tall').getBoundingClientRect();
        const table = document.querySelector('#matrix-table');
        const head = table.tHead.rows[0].cells[30].getBoundingClientRect();
        const side = table.rows[60].cells[0].getBoundingClientRect();
        return [head.top - box.top, side.left - box.left, box.bottom - side.bottom, box.right - head.right];
    })()""")
    assert all(0 <= distance < 25 for distance in found), found


_CONTRAST = """(() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const known = {};
    const rgba = (text) => known[text] ??= (canvas.clearRect(0, 0, 1, 1), canvas.fillStyle = text,
        canvas.fillRect(0, 0, 1, 1), [...canvas.getImageData(0, 0, 1, 1).data]);
    const light = (colour) => colour.slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (one) => {
        if (one.tagName === 'text') return rgba(getComputedStyle(one.previousElementSibling).fill);
        for (let at = one; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] === 255) return colour;
            if (colour[3] > 0) throw 'half transparent';
        }
        return rgba('white');
    };
    const weak = {}, seen = new Set();
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const one = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || !one.checkVisibility()) continue;
        if (one.closest('script, style, option, title')) continue;
        const style = getComputedStyle(one);
        const [a, b] = [light(rgba(one.tagName === 'text' ? style.fill : style.color)), light(behind(one))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        seen.add(one.tagName);
        if (ratio < 4.5) weak[one.outerHTML.slice(0, 120)] = ratio;
    }
    return [weak, [...seen].length];
})()"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["address", "wide"])
def test_all_text_stands_out(chromium, request, name, dark):
    page = chromium.open(request.getfixturevalue(name), dark=dark)
    open_details(page)
    weak, kinds = page.do(_CONTRAST)
    assert weak == {}
    assert kinds >= 15
    page.do("document.querySelector('h2').style.color = '#777'")
    assert len(page.do(_CONTRAST)[0]) == 1  # it would have been seen


def test_all_that_can_be_used_has_a_name_and_shows_when_it_is_in_focus(chromium, address):
    page = chromium.open(address)
    open_details(page)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "link", "searchbox", "combobox", "radio", "region", "table", "img", "columnheader", "navigation"}
    used = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert {node["role"]["value"] for node in used} >= roles - {"img"}
    assert [node for node in used if not node.get("name", {}).get("value")] == []
    page.press("Tab")
    assert page.do("document.activeElement.className") == "skip"
    assert page.do("document.activeElement.getBoundingClientRect().top") >= 0
    for _ in range(20):
        page.press("Tab")
        width = "parseFloat(getComputedStyle(document.activeElement).outlineWidth)"
        assert page.do(width) >= 2, page.do("document.activeElement.outerHTML")


def test_who_wants_no_motion_gets_none(chromium, address):
    page = chromium.open(address)
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    assert page.do(behaviour) == "smooth"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert page.do(behaviour) == "auto"
