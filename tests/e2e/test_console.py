"""The console as a person meets it, in headless Chromium against a served API with real engines."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator

import httpx
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect
from tests.e2e.console_world import World, open_world
from tests.support.engines import DatabaseURLs

from headwater.stream.timeline import Event

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    # Starting a browser beside two engines takes its time on a loaded machine.
    pytest.mark.timeout(180),
]
expect.set_options(timeout=20_000)


@pytest.fixture
async def world(database_urls: DatabaseURLs, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database_urls, nats_url) as made:
        yield made


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        await launched.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """Fails the test where the page has an error of its own; what the server refuses is shown to the person instead."""
    page = await (await browser.new_context(viewport={"width": 1280, "height": 900})).new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
    yield page
    assert errors == []


async def sign_in(page: Page, world: World, path: str = "") -> None:
    await page.goto(world.url + path)
    await page.get_by_label("E-mail").fill(world.email)
    await page.get_by_label("Password").fill(world.password)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()


async def live(page: Page) -> None:
    await expect(page.locator("html")).to_have_attribute("data-live", "live")


async def test_signing_in_and_out(page: Page, world: World) -> None:
    await page.goto(world.url)
    await page.get_by_label("E-mail").fill(world.email)
    await page.get_by_label("Password").fill("not the password")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    await page.get_by_label("Password").fill(world.password)
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("acme", exact=True)).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Password")).to_be_visible()
    await page.reload()
    await expect(page.get_by_label("Password")).to_be_visible()


async def test_an_empty_tenant_is_told_what_to_do_and_fills_by_itself(page: Page, world: World) -> None:
    await sign_in(page, world)
    await expect(page.get_by_role("heading", name="No devices yet")).to_be_visible()
    await expect(page.get_by_text(f"{world.url}api/v1/devices")).to_have_count(1)
    await expect(page.get_by_text("mosquitto_pub")).to_be_visible()
    await world.add_device("pump-1", "Pump 1")
    await expect(page.get_by_role("link", name="Pump 1")).to_be_visible()


async def test_the_list_is_live(page: Page, world: World) -> None:
    pump, valve = await world.add_device("pump-1", "Pump 1"), await world.add_device("valve-1", "Valve 1", connected=True)
    await sign_in(page, world)
    row, other = page.locator(f"[data-device='{pump}']"), page.locator(f"[data-device='{valve}']")
    await expect(row).to_contain_text("not connected")
    await expect(other.locator(".dot.on")).to_have_count(1)
    await live(page)
    world.says(pump, {"temperature": 21.53, "running": True})
    await expect(row).to_contain_text("21.53")
    await expect(row).to_contain_text("just now")
    world.presence(pump, connected=True)
    await expect(row.locator(".dot.on")).to_have_count(1)
    world.presence(valve, connected=False)
    await expect(other).to_contain_text("not connected")
    # It keeps ticking without any event.
    await expect(row.locator("time")).to_have_text("3 s ago")


async def test_search_words_queries_and_mistakes(page: Page, world: World) -> None:
    for name in ("Pump 1", "Pump 2", "Valve 1"):
        await world.add_device(name.lower().replace(" ", "-"), name)
    await sign_in(page, world)
    rows = page.locator("tr[data-device]")
    await expect(rows).to_have_count(3)
    search = page.get_by_label("Search")
    await search.fill("pump")
    await expect(rows).to_have_count(2)
    await search.fill('external_id = "valve-1"')
    await expect(rows).to_have_count(1)
    await search.fill("external_id =")
    await expect(page.get_by_role("alert")).to_contain_text("expected a value")
    await search.fill("no such thing")
    await expect(page.get_by_role("heading", name="No device matches")).to_be_visible()
    await page.get_by_role("button", name="Show all devices").click()
    await expect(rows).to_have_count(3)


async def test_pages_of_devices(page: Page, world: World) -> None:
    for number in range(27):
        await world.add_device(f"pump-{number:02}", f"Pump {number:02}")
    await sign_in(page, world)
    rows = page.locator("tr[data-device]")
    await expect(rows).to_have_count(25)
    await page.get_by_role("button", name="Next").click()
    await expect(rows).to_have_count(2)
    await expect(page.get_by_text("26 to 27")).to_be_visible()
    await page.get_by_role("button", name="Previous").click()
    await expect(rows).to_have_count(25)


async def test_a_device_with_its_charts(page: Page, world: World) -> None:
    await world.add_fleet()
    store = next(device for device in world.devices if device.make.name == "cold-store")
    await sign_in(page, world)
    await page.get_by_role("link", name=store.name).click()
    await expect(page.get_by_role("heading", name=store.name)).to_be_visible()
    charts = page.locator("figure.chart")
    await expect(charts).to_have_count(5)
    await expect(charts.first.locator(".metric")).to_have_text("temperature")
    await page.get_by_text("1 h", exact=True).click()
    await live(page)

    world.says(store.id, {"temperature": -12.25, "door_open": True})
    temperature = page.locator("figure[data-metric=temperature] output")
    await expect(temperature).to_have_text("-12.25 °C")
    await expect(page.locator("tr[data-metric=temperature]")).to_contain_text("-12.25")
    await expect(page.locator("tr[data-metric=door_open]")).to_contain_text("true")
    await painted(page, "figure[data-metric=temperature] canvas")

    # The reading line: by keyboard and by pointer, in all charts at once.
    canvas = page.locator("figure[data-metric=temperature] canvas")
    await canvas.focus()
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("ArrowLeft")
    await expect(temperature).to_contain_text(":")
    await page.keyboard.press("Escape")
    await expect(temperature).to_have_text("-12.25 °C")
    await page.locator("figure[data-metric=power] canvas").hover(position={"x": 200, "y": 60})
    await expect(temperature).to_contain_text(":")

    # A metric that nobody has heard of before gets its chart at once.
    world.says(store.id, {"defrost_cycles": 7})
    await expect(page.locator("figure[data-metric=defrost_cycles] output")).to_have_text("7")


async def painted(page: Page, selector: str) -> None:
    """Until the canvas holds many pixels of the chart's own colour: it is drawn in a frame after the text has changed."""
    await page.wait_for_function("""selector => {
        const canvas = document.querySelector(selector);
        const colour = getComputedStyle(document.documentElement).getPropertyValue("--chart").trim();
        const [r, g, b] = [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let found = 0;
        for (let at = 0; at < data.length; at += 4) {
            const distance = Math.abs(data[at] - r) + Math.abs(data[at + 1] - g) + Math.abs(data[at + 2] - b);
            if (distance < 40 && data[at + 3] > 128) found++;
        }
        return found > 200;
    }""", arg=selector)  # fmt: skip


async def test_a_silent_device_waits_for_its_first_words(page: Page, world: World) -> None:
    pump = await world.add_device("pump-1", "Pump 1")
    await sign_in(page, world, f"#/devices/{pump}")
    await expect(page.get_by_role("heading", name="Waiting for the first telemetry")).to_be_visible()
    await expect(page.get_by_text(f"d/acme/{pump}/telemetry")).to_be_visible()
    await live(page)
    world.says(pump, {"temperature": 3.5})
    await expect(page.get_by_role("heading", name="Waiting for the first telemetry")).to_be_hidden()
    await expect(page.locator("figure[data-metric=temperature] output")).to_have_text("3.5")


async def test_why_a_device_cannot_connect_is_told_in_words(page: Page, world: World) -> None:
    pump = await world.add_device("pump-1", "Pump 1")
    await sign_in(page, world, f"#/devices/{pump}")
    happenings = page.locator("ol.timeline li")
    await expect(happenings).to_have_text(
        "Nothing yet. Each attempt to connect is told here, with the reason where it fails."
    )
    await world.happens(pump, Event.AUTHENTICATION_FAILED, code="device.refused", detail="unknown or wrong token")
    await world.happens(pump, Event.TOPIC_DENIED, detail="<b>a</b>", count=1_234)
    await live(page)
    world.presence(pump, connected=True)  # whatever the timeline says of it is looked up
    await expect(happenings).to_have_count(2)
    await expect(happenings.nth(1)).to_contain_text("Refused: unknown or wrong token, from 203.0.113.7")
    await expect(happenings.nth(0)).to_contain_text("Topic denied: <b>a</b>, from 203.0.113.7 (1,234 times)")


async def test_it_comes_back_after_a_lost_connection_and_shows_what_came_meanwhile(page: Page, world: World) -> None:
    pump = await world.add_device("pump-1", "Pump 1")
    await sign_in(page, world)
    await live(page)
    row = page.locator(f"[data-device='{pump}']")
    world.says(pump, {"a": 1})
    await expect(row).to_contain_text("a1")
    await world.stop()
    await expect(page.get_by_text("Live connection lost, reconnecting")).to_be_visible()
    world.says(pump, {"b": 2})
    await world.start()
    await live(page)
    await expect(row).to_contain_text("b2")
    await expect(page.get_by_text("Live connection lost")).to_be_hidden()
    await expect(page.get_by_text("You missed")).to_be_hidden()


async def test_what_was_missed_is_said(page: Page, world: World) -> None:
    pump = await world.add_device("pump-1", "Pump 1")
    await sign_in(page, world)
    await live(page)
    world.gateway.feed._dropped(world.tenant.bytes)
    world.says(pump, {"a": 1})
    await expect(page.get_by_text("You missed some live events")).to_be_visible()
    await page.get_by_role("button", name="Dismiss").click()
    await expect(page.get_by_text("You missed")).to_be_hidden()


async def test_a_name_is_never_markup(page: Page, world: World) -> None:
    await world.add_device("x", "<img src=x onerror=alert(1)>")
    await sign_in(page, world)
    await expect(page.get_by_role("link", name="<img src=x onerror=alert(1)>")).to_be_visible()
    assert await page.locator("td img").count() == 0


async def test_light_and_dark(page: Page, world: World) -> None:
    async def ground() -> str:
        return await page.evaluate("getComputedStyle(document.body).backgroundColor")

    await page.emulate_media(color_scheme="dark")
    await sign_in(page, world)
    dark = await ground()
    await page.get_by_role("button", name="Switch between light and dark").click()
    assert await ground() != dark
    await page.reload()
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert await ground() != dark


async def test_files_are_kept_for_ever_and_nothing_foreign_is_allowed(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.url) as client:
        page = await client.get("/", headers={"accept-encoding": "identity"})
        policy = page.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-cache"
        assert "<script>" not in page.text
        assert (await client.get("/", headers={"if-none-match": page.headers["etag"]})).status_code == 304
        script = page.text.split('src="')[1].split('"')[0]
        plain = await client.get(script, headers={"accept-encoding": "identity"})
        packed = await client.get(script, headers={"accept-encoding": "gzip"})
        assert "immutable" in plain.headers["cache-control"]
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.text == plain.text
        assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])
        assert (await client.get("/console/other/app.js")).status_code == 404
        assert (await client.get(script.replace("app.js", "..%2f..%2fassets.py"))).status_code == 404
        everything = await asyncio.gather(
            *(client.get(script.replace("app.js", n)) for n in ("api.js", "style.css", "mark.svg"))
        )
        assert all(one.status_code == 200 for one in everything)
