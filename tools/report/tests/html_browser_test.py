"""The HTML report in a browser. Exit code 77 (skipped, to ctest) where there is no Chromium.

    html_browser_test.py MOEREF GOLDEN_DIR [SCREENSHOT_DIR]
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

from browser import Browser, find_browser

MOEREF, GOLDEN = sys.argv[1:3]
SCREENSHOTS = sys.argv[3] if len(sys.argv) > 3 else None
HOSTILE = "x</script><script>document.title=1</script><img src=y onerror=document.title=2>"
VISIBLE = "[...document.querySelectorAll('.case')].filter(c => !c.hidden)"


def make_report(folder):
    """A page with two cases that pass and one that fails, whose file and port have hostile names."""
    golden, results = os.path.join(folder, "golden"), os.path.join(folder, HOSTILE.replace("/", "\\"))
    os.makedirs(golden)
    os.makedirs(results)
    for case, given in (("gate__sigmoid", "gate__sigmoid"), ("mlp__swiglu", "mlp__swiglu"),
                        ("gate__softmax_before_topk", "gate__softmax_after_topk")):
        shutil.copy(os.path.join(GOLDEN, case + ".h5"), golden)
        shutil.copy(os.path.join(GOLDEN, given + ".h5"), os.path.join(results, case + ".h5"))
    page = os.path.join(folder, "report.html")
    done = subprocess.run([MOEREF, "validate", "--port", "results:" + results, golden, "--html", page, "--quiet",
                           "--date", HOSTILE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    return page


class HtmlBrowserTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.page = make_report(cls.folder.name)
        cls.browser = Browser(find_browser())

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.folder.cleanup()

    def open(self, width=1280, **more):
        self.browser.open(self.page, width, **more)

    def tearDown(self):
        self.assertEqual(self.browser.errors, [])
        self.assertIsNone(self.browser.run("document.documentElement.dataset.scriptError ?? null"))

    def visible(self):
        return self.browser.run(VISIBLE + ".map(c => c.querySelector('.case-name').textContent)")

    def test_it_renders(self):
        self.open()
        self.assertIn("FAILED", self.browser.run("document.querySelector('h1').innerText"))
        self.assertEqual(len(self.visible()), 3)
        self.assertGreater(self.browser.run("document.querySelectorAll('.bars rect').length"), 8)
        self.assertTrue(self.browser.run("document.querySelector('.case details').open"))
        self.assertIn("the worst", self.browser.run("document.querySelector('main').innerText"))

    def test_hostile_names_are_text(self):
        self.open()
        self.assertTrue(self.browser.run("document.title").startswith("FAILED - results:"))
        self.assertEqual(self.browser.run("document.images.length"), 0)
        self.assertEqual(self.browser.run("document.scripts.length"), 1)
        self.assertIn("onerror=document.title=2", self.browser.run("document.querySelector('footer').innerText"))

    def test_the_failing_case_is_found_by_its_name(self):
        self.open()
        self.browser.press("/", "/")
        self.assertEqual(self.browser.run("document.activeElement.id"), "search")
        self.browser.call("Input.insertText", text="softmax_BEFORE")
        self.assertEqual(self.visible(), ["gate__softmax_before_topk"])
        self.assertEqual(self.browser.run(VISIBLE + "[0].dataset.verdict"), "FAIL")
        self.assertEqual(self.browser.run("document.getElementById('shown').textContent"), "1 of 3 cases")
        self.browser.press("Escape")
        self.assertEqual(len(self.visible()), 3)
        self.browser.call("Input.insertText", text="nothing like it")
        self.assertEqual(self.visible(), [])

    def test_verdicts_filter_and_the_address_keeps_them(self):
        self.open()
        self.browser.run("document.querySelector('[data-filter=PASS]').click()")
        self.assertEqual(self.visible(), ["gate__sigmoid", "mlp__swiglu"])
        self.browser.run("let c = document.getElementById('component'); c.value = 'mlp';"
                         "c.dispatchEvent(new Event('change'))")
        self.assertEqual(self.visible(), ["mlp__swiglu"])
        address = self.browser.run("location.hash")
        self.open(fragment=address)
        self.assertEqual(self.visible(), ["mlp__swiglu"])
        self.assertEqual(self.browser.run("document.querySelector('[data-filter=PASS]').ariaPressed"), "true")

    def test_cells_of_the_table_filter(self):
        self.open()
        self.browser.run("document.querySelector('tbody a[href*=FAIL]').click()")
        self.browser.run("new Promise(done => setTimeout(done, 50))")
        self.assertEqual(self.visible(), ["gate__softmax_before_topk"])

    def test_cases_open_by_keyboard(self):
        self.open()
        self.browser.run("document.querySelectorAll('.case summary')[1].focus()")
        self.browser.press("Enter", "\r")
        self.assertTrue(self.browser.run("document.querySelectorAll('.case details')[1].open"))

    def test_no_horizontal_scroll_on_a_phone(self):
        for width in (320, 360, 1280):
            for dark in (False, True):
                self.open(width, dark=dark)
                self.browser.run("for (const d of document.querySelectorAll('details')) d.open = true")
                self.assertLessEqual(self.browser.run("document.documentElement.scrollWidth"),
                                     self.browser.run("document.documentElement.clientWidth"), width)
                if SCREENSHOTS:
                    name = f"report_{width}_{'dark' if dark else 'light'}.png"
                    self.browser.screenshot(os.path.join(SCREENSHOTS, name), whole=True)

    def test_light_and_dark(self):
        colours = []
        for dark in (False, True):
            self.open(dark=dark)
            colours.append(self.browser.run("getComputedStyle(document.body).backgroundColor"))
        self.assertNotEqual(*colours)


if __name__ == "__main__":
    if not find_browser():
        print("SKIPPED: there is no chromium; install it to test the HTML report")
        sys.exit(77)
    result = unittest.main(argv=sys.argv[:1], exit=False).result
    sys.exit(0 if result.wasSuccessful() else 1)
