//! The table of `/debug/clients` for people.

use std::fmt::Write;

use super::columns::COLUMNS;
use super::{Selected, Wanted};
use crate::admin::html::{escape, page as document};
use crate::admin::query::encode;
use crate::admin::roster::Listing;

pub(super) fn page(listing: &Listing, selected: &Selected<'_>, wanted: &Wanted) -> String {
    let mut out = String::new();
    let first = wanted.offset + usize::from(!selected.rows.is_empty());
    let last = wanted.offset + selected.rows.len();
    let _ = write!(
        out,
        "<p>{} clients, {} of them with such keys, {first} to {last} shown.",
        listing.clients.len(),
        selected.matched
    );
    for worker in &listing.missing {
        let _ = write!(out, " <b>worker {worker} did not answer: its clients are missing.</b>");
    }
    let _ = write!(
        out,
        "</p>\n<form><label>key <input name=\"key\" value=\"{}\" placeholder=\"first hex digits\"></label> \
         <input type=\"hidden\" name=\"sort\" value=\"{}\"><button>filter</button></form>\n<p>",
        escape(&wanted.key),
        wanted.sort.name
    );
    if wanted.offset > 0 {
        let to = wanted.offset.saturating_sub(wanted.limit);
        let _ = write!(out, "<a href=\"{}\">previous</a> ", link(wanted, wanted.sort.name, wanted.descending, to));
    }
    if last < selected.matched {
        let to = wanted.offset + wanted.limit;
        let _ = write!(out, "<a href=\"{}\">next</a>", link(wanted, wanted.sort.name, wanted.descending, to));
    }
    out.push_str("</p>\n<table>\n<tr>");
    for column in &COLUMNS {
        let sorted = column.name == wanted.sort.name;
        // What is much is looked for first, and a second click turns it over.
        let descending = if sorted { !wanted.descending } else { column.name != "key" && column.name != "address" };
        let mark = match (sorted, wanted.descending) {
            (false, _) => "",
            (true, false) => " \u{25b2}",
            (true, true) => " \u{25bc}",
        };
        let _ = write!(out, "<th><a href=\"{}\">{}{mark}</a>", link(wanted, column.name, descending, 0), column.head);
    }
    for client in &selected.rows {
        out.push_str("\n<tr>");
        for column in &COLUMNS {
            let _ = write!(out, "<td>{}", escape(&(column.text)(client)));
        }
    }
    out.push_str("\n</table>\n");
    document("clients", &out)
}

fn link(wanted: &Wanted, sort: &str, descending: bool, offset: usize) -> String {
    let order = if descending { "desc" } else { "asc" };
    let Wanted { limit, key, .. } = wanted;
    escape(&format!("?sort={sort}&order={order}&limit={limit}&offset={offset}&key={}", encode(key)))
}
