//! `[state.TYPE]`: document types, the kinds of their fields, and plain DynamoDB items that are documents.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::DeValue;

use super::reader::{Entry, Section, one_of};
use crate::core::state;

/// Maps within maps within maps are a data model's mistake, and each level costs a recursion.
const NESTED_MAX: usize = 4;

/// A document type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateType {
    /// The fields by name. What a field held that is removed, or becomes another kind, is kept and not shown.
    pub fields: BTreeMap<String, Kind>,
    /// `[state.TYPE.dynamodb]`: documents of this type are items of a table. Default: none.
    pub dynamodb: Option<Dynamodb>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One value.
    Value(state::Kind),
    /// `{ map = KIND }`: keys with a value of one kind each.
    Map(Box<Kind>),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Value(kind) => kind.fmt(f),
            Kind::Map(of) => write!(f, "map of {of}"),
        }
    }
}

/// The fields of each type as documents have them.
pub(super) fn schemas(types: &BTreeMap<String, StateType>) -> state::Schemas {
    let fields = |of: &StateType| of.fields.iter().map(|(name, kind)| (name.clone(), shape(kind))).collect();
    types.iter().map(|(name, of)| (name.clone(), state::Schema(fields(of)))).collect()
}

fn shape(kind: &Kind) -> state::Shape {
    match kind {
        Kind::Value(kind) => state::Shape { kind: *kind, depth: 0 },
        Kind::Map(of) => {
            let of = shape(of);
            state::Shape { depth: of.depth + 1, ..of }
        }
    }
}

/// `[state.TYPE.dynamodb]`: services keep writing plain items, the agent takes each change as operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dynamodb {
    /// The table, under the same name in every region. Default: the document type's name.
    pub table: String,
    /// The attribute that is the partition key, and the document's id. Default `id`.
    pub key: String,
}

/// All of `[state]`.
pub(super) fn read(mut section: Section<'_, '_>) -> BTreeMap<String, StateType> {
    let mut types = BTreeMap::new();
    for (name, entry) in section.others() {
        let right = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.bytes().all(right) || name.len() > 128 {
            entry.refuse("a document type's name is a letter, then at most 127 letters, digits, `_` and `-`");
        }
        if let Some(section) = entry.table() {
            types.insert(name.clone(), read_type(section, &name));
        }
    }
    types
}

fn read_type(mut section: Section<'_, '_>, name: &str) -> StateType {
    let (mut table, given) = section.table_if_given("dynamodb");
    let dynamodb = Dynamodb {
        table: table.parsed("table", table_name).unwrap_or_else(|| name.to_owned()),
        key: table.parsed("key", attribute).unwrap_or_else(|| "id".to_owned()),
    };
    table.finish();
    let mut fields = BTreeMap::new();
    for (field, entry) in section.others() {
        if let Err(why) = attribute(&field) {
            entry.refuse(why);
        }
        if given && field == dynamodb.key {
            entry.refuse("the table's key names the document and can be no field of it");
        }
        if let Some(kind) = read_kind(&entry, 0) {
            fields.insert(field, kind);
        }
    }
    StateType { fields, dynamodb: given.then_some(dynamodb) }
}

fn read_kind(entry: &Entry<'_, '_>, depth: usize) -> Option<Kind> {
    if let DeValue::Table(_) = entry.value {
        let mut table = entry.table()?;
        let Some(of) = table.entry("map") else {
            entry.refuse("expected a kind, or `{ map = KIND }`");
            return None;
        };
        table.finish();
        if depth == NESTED_MAX {
            of.refuse(format!("at most {NESTED_MAX} maps may stand in each other"));
            return None;
        }
        return Some(Kind::Map(Box::new(read_kind(&of, depth + 1)?)));
    }
    let kinds = state::Kind::ALL.map(|kind| (kind.as_str(), Kind::Value(kind)));
    entry.parsed(|text| match text {
        "map" => Err("a map says what it is a map of: `{ map = \"max\" }`".to_owned()),
        text => one_of(text, &kinds),
    })
}

fn table_name(text: &str) -> Result<String, String> {
    let right = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match (3..=255).contains(&text.len()) && text.bytes().all(right) {
        true => Ok(text.to_owned()),
        false => Err("a table's name has 3 to 255 letters, digits, `.`, `_` and `-`".to_owned()),
    }
}

fn attribute(text: &str) -> Result<String, String> {
    match (1..=255).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err("a field's name has 1 to 255 bytes and no control character".to_owned()),
    }
}
