//! `/debug/clients`: who is connected, sorted, filtered, a page at a time.

mod columns;
mod html;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::query;
use super::roster::Listing;
use super::state::State;
use crate::limits;
use crate::worker::listing::Client;
pub(super) use columns::time;
use columns::{COLUMNS, Column};

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    sort: &'static Column,
    descending: bool,
    limit: usize,
    offset: usize,
    /// Hex digits that keys begin with.
    key: String,
    form: Option<Form>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Html,
}

impl Wanted {
    /// # Errors
    /// What is wrong with a parameter, and which ones there are.
    pub fn read(query: &str) -> Result<Self, String> {
        let mut wanted =
            Self { sort: &COLUMNS[0], descending: false, limit: 100, offset: 0, key: String::new(), form: None };
        for (name, value) in query::pairs(query)? {
            wanted.take(&name, &value)?;
        }
        Ok(wanted)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let bad = |good: &str| Err(format!("{name}={value}: give {good}"));
        match (name, value) {
            ("sort", _) => match COLUMNS.iter().find(|column| column.name == value) {
                Some(column) => self.sort = column,
                None => return bad(&COLUMNS.map(|column| column.name).join(", ")),
            },
            ("order", "asc") => self.descending = false,
            ("order", "desc") => self.descending = true,
            ("order", _) => return bad("asc or desc"),
            ("limit", _) => match value.parse() {
                Ok(limit @ 1..=limits::CLIENTS_SHOWN_MAX) => self.limit = limit,
                _ => return bad(&format!("a number from 1 to {}", limits::CLIENTS_SHOWN_MAX)),
            },
            ("offset", _) => match value.parse() {
                Ok(offset) => self.offset = offset,
                Err(_) => return bad("how many clients to leave out"),
            },
            ("key", _) => {
                let hex = value.strip_prefix("nodekey:").unwrap_or(value).to_ascii_lowercase();
                if hex.len() > 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return bad("the first hex digits of a key, with or without nodekey:");
                }
                self.key = hex;
            }
            ("format", "json") => self.form = Some(Form::Json),
            ("format", "html") => self.form = Some(Form::Html),
            ("format", _) => return bad("json or html"),
            _ => return Err(format!("{name:?} is not a parameter: give sort, order, limit, offset, key or format")),
        }
        Ok(())
    }

    /// A browser says that it takes HTML; programs take what they get.
    pub fn form(&self, accept: &str) -> Form {
        self.form.unwrap_or(if accept.contains("text/html") { Form::Html } else { Form::Json })
    }
}

/// The page that is wanted.
pub(super) async fn page(state: &State, wanted: &Wanted, form: Form) -> String {
    let listing = state.roster.listing(Instant::now()).await;
    let selected = select(&listing, wanted);
    match form {
        Form::Json => json(&listing, &selected, wanted),
        Form::Html => html::page(&listing, &selected, wanted),
    }
}

struct Selected<'a> {
    /// How many there are with such keys.
    matched: usize,
    rows: Vec<&'a Client>,
}

fn select<'a>(listing: &'a Listing, wanted: &Wanted) -> Selected<'a> {
    let fits = |client: &&Client| wanted.key.is_empty() || client.key.to_hex().starts_with(&wanted.key);
    let mut rows: Vec<&Client> = listing.clients.iter().filter(fits).collect();
    let matched = rows.len();
    // Equals stay in the order of their keys, so that pages do not overlap.
    rows.sort_by(|a, b| {
        let order = (wanted.sort.order)(a, b);
        if wanted.descending { order.reverse() } else { order }
    });
    Selected { matched, rows: rows.into_iter().skip(wanted.offset).take(wanted.limit).collect() }
}

/// Row by row: as one tree of values it would be ten times as large.
fn json(listing: &Listing, selected: &Selected<'_>, wanted: &Wanted) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = format!(
        "{{\"connected\":{},\"matched\":{},\"offset\":{},\"limit\":{},\"missing_workers\":{:?},\"clients\":[",
        listing.clients.len(),
        selected.matched,
        wanted.offset,
        wanted.limit,
        listing.missing
    );
    for (at, client) in selected.rows.iter().enumerate() {
        let columns = COLUMNS.iter().map(|column| (column.name.to_owned(), (column.json)(client)));
        let mut row: Map<String, Value> = columns.collect();
        row.insert("since".to_owned(), seconds(now.saturating_sub(client.age)));
        text.push_str(if at == 0 { "\n" } else { ",\n" });
        text.push_str(&Value::Object(row).to_string());
    }
    text.push_str("]}\n");
    text
}

/// With three digits behind the point.
fn seconds(time: Duration) -> Value {
    json!(time.as_millis() as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::roster::Roster;
    use super::super::roster::tests::{Crowd, client, run};
    use super::*;

    fn listing() -> std::sync::Arc<Listing> {
        let clients = (0..20).map(|n| client(n * 0x0100_0000, u64::from(n % 5))).collect();
        run(Roster::new(Crowd::new(vec![Some(clients), None])).listing(Instant::now()))
    }

    fn keys(query: &str) -> Vec<u8> {
        select(&listing(), &Wanted::read(query).unwrap()).rows.iter().map(|client| client.key.0[0]).collect()
    }

    #[test]
    fn pages_are_sorted_filtered_and_follow_each_other() {
        assert_eq!(keys("limit=3"), [0, 1, 2]);
        assert_eq!(keys("limit=3&offset=18"), [18, 19]);
        assert_eq!(keys("offset=1000"), [0; 0]);
        assert_eq!(keys("sort=key&order=desc&limit=2"), [19, 18]);
        assert_eq!(keys("sort=bytes_in&order=desc&limit=5"), [4, 9, 14, 19, 3]);
        assert_eq!(keys("sort=packets_in&limit=4&offset=4"), [1, 6, 11, 16]);
        assert_eq!(keys("key=0"), (0..16).collect::<Vec<u8>>());
        assert_eq!(keys("key=nodekey:0F"), [15]);
        assert_eq!(keys("key=ff"), [0; 0]);
    }

    #[test]
    fn bad_parameters_name_the_good_ones() {
        for (query, text) in [
            ("sort=size", "sort=size: give key, address, worker"),
            ("order=up", "order=up: give asc or desc"),
            ("limit=0", "limit=0: give a number from 1 to 10000"),
            ("limit=10001", "limit=10001"),
            ("offset=-1", "offset=-1"),
            ("key=xyz", "key=xyz: give the first hex digits"),
            ("format=xml", "format=xml: give json or html"),
            ("sorted=key", "\"sorted\" is not a parameter: give sort, order"),
        ] {
            let error = Wanted::read(query).unwrap_err();
            assert!(error.starts_with(text), "{error}");
        }
        let error = Wanted::read("sort=").unwrap_err();
        assert!(COLUMNS.iter().all(|column| error.contains(column.name)), "{error}");
    }

    #[test]
    fn programs_get_json_with_every_column_and_browsers_a_table() {
        let listing = listing();
        let wanted = Wanted::read("sort=bytes_in&order=desc&limit=2&key=0").unwrap();
        let selected = select(&listing, &wanted);
        let value: Value = serde_json::from_str(&json(&listing, &selected, &wanted)).unwrap();
        assert_eq!((&value["connected"], &value["matched"]), (&json!(20), &json!(16)));
        assert_eq!(value["missing_workers"], json!([1]));
        let row = value["clients"][0].as_object().unwrap();
        assert!(COLUMNS.iter().all(|column| row.contains_key(column.name)) && row.contains_key("since"), "{row:?}");
        assert_eq!((&row["bytes_in"], &row["connected_seconds"]), (&json!(400), &json!(100.0)));
        assert_eq!(row["address"], "10.0.0.1:0");

        let page = html::page(&listing, &selected, &wanted);
        assert!(page.contains("nodekey:04") && page.contains("10.0.0.1"), "{page}");
        assert!(page.contains("worker 1 did not answer"), "{page}");
        assert!(page.contains("href=\"?sort=bytes_in&amp;order=asc&amp;limit=2&amp;offset=0&amp;key=0\""), "{page}");
        assert!(page.contains("offset=2&amp;key=0\">next"), "{page}");

        let form = |query: &str, accept: &str| Wanted::read(query).unwrap().form(accept);
        assert_eq!(form("", "text/html,application/xhtml+xml,*/*;q=0.8"), Form::Html);
        assert_eq!([form("", "*/*"), form("", ""), form("format=json", "text/html")], [Form::Json; 3]);
        assert_eq!(form("format=html", ""), Form::Html);
    }
}
