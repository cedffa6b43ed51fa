//! Checks for every page: it can be used with a screen reader, on a small screen and in both colour schemes, and keeps
//! its own security policy. Screenshots are kept for designers.

use super::Browser;
use serde_json::Value;
use std::path::Path;

impl Browser {
    /// Asserts that the page passes every check, and saves screenshots with this name in target/screenshots.
    #[track_caller]
    pub fn inspect(&self, name: &str) {
        let faults = self.faults();
        assert!(faults.is_empty(), "{name}: {faults:#?}\n{self}");
        self.screenshots(name);
    }

    /// Everything that is wrong with the page.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.nameless();
        faults.extend(self.too_wide());
        faults.extend(self.too_faint());
        faults.extend(self.policy_violations());
        faults
    }

    /// Controls that a screen reader has no name for, and a missing or second heading.
    pub fn nameless(&self) -> Vec<String> {
        let names = self.accessible_names(CONTROLS);
        let nameless = names.iter().filter(|name| name.trim().is_empty());
        let mut faults: Vec<String> = nameless.map(|_| format!("a control without a name among {names:?}")).collect();
        let headings = self.accessible_names("h1");
        if headings.len() != 1 {
            faults.push(format!("not exactly one heading: {headings:?}"));
        }
        if names.len() < 3 {
            faults.push(format!("hardly any controls: {names:?}"));
        }
        faults
    }

    /// The width of a page that does not fit the smallest screen (WCAG 2.2, 1.4.10), in whichever direction people read.
    pub fn too_wide(&self) -> Option<String> {
        self.set_width(320);
        ["rtl", "ltr"].into_iter().find_map(|direction| {
            let turned = format!("document.documentElement.dir = '{direction}';");
            let width = self.run(&(turned + "return document.documentElement.scrollWidth"));
            (width != 320).then(|| format!("the page is {width} pixels wide ({direction}) on a screen of 320"))
        })
    }

    /// Text, icons and fields with too little contrast in one of the colour schemes.
    pub fn too_faint(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for scheme in ["light", "dark"] {
            self.set_color_scheme(scheme);
            let [seen, faint] = ["seen", "faint"].map(|list| self.run(&format!("{CONTRAST} return {list}")));
            let lines = |list: Value| list.as_array().unwrap().iter().map(|line| format!("{scheme}: {line}")).collect();
            let (seen, faint): (Vec<String>, Vec<String>) = (lines(seen), lines(faint));
            assert!(seen.len() > 5, "hardly anything was found: {seen:?}\n{self}");
            faults.extend(faint);
        }
        faults
    }

    /// What the browser refused to load or run because of the page's Content Security Policy.
    pub fn policy_violations(&self) -> Vec<String> {
        self.console_messages().into_iter().filter(|line| line.contains("Content Security Policy")).collect()
    }

    /// Narrow and wide, light and dark.
    pub fn screenshots(&self, name: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        for width in [390, 1280] {
            for scheme in ["light", "dark"] {
                self.set_width(width);
                self.set_color_scheme(scheme);
                self.screenshot(&folder.join(format!("{name}-{width}-{scheme}.png")));
            }
        }
    }
}

const CONTROLS: &str =
    ":is(a, button, summary, input:not([type=hidden], [hidden]), textarea):not(details:not([open]) > :not(summary) *)";

/// Lists what is visible on a page, and of this what is too faint: text below 7:1, icons and borders of fields below
/// 4.5:1 (WCAG 2.2, 1.4.6 and 1.4.11, which asks for less).
const CONTRAST: &str = r"
const style = element => getComputedStyle(element);
const channels = colour => colour.match(/[\d.]+/g).map(Number);
const light = colour => channels(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0.05);
const ground = element => {
    const own = style(element).backgroundColor;
    return channels(own)[3] === 0 ? ground(element.parentElement) : own;
};
const seen = [], faint = [];
const compare = (element, colour, behind, wanted) => {
    const [darker, lighter] = [light(colour), light(ground(behind))].sort((a, b) => a - b);
    const line = `${element.outerHTML.slice(0, 80)} ${colour} ${(lighter / darker).toFixed(2)}`;
    seen.push(line);
    if (lighter / darker < wanted) faint.push(line);
};
for (const element of document.body.querySelectorAll('*')) {
    const words = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (words) compare(element, style(element).color, element, 7);
    if (element.matches('path')) compare(element, style(element).fill, element, 4.5);
    if (element.matches('input:not([type=hidden], [type=checkbox]), textarea'))
        compare(element, style(element).borderTopColor, element.parentElement, 4.5);
}";
