//! `${NAME}` from the environment, `$${` for a literal `${`.
//!
//! Replacing in the bare text would let a value end its string and add options of its own, and would complain of
//! `${…}` in comments. Replacing after the parse would allow it in strings only. So this walks the text with just
//! enough of TOML's lexer to know whether it stands in a comment, in a string (the value is escaped) or outside
//! (the value must be one plain word or number). No replacement changes the number of lines.

/// A reference that cannot be replaced.
pub(super) struct Refused {
    /// Byte offset into the original text.
    pub offset: usize,
    /// The reference as it stands there.
    pub reference: String,
    pub why: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Bare,
    Comment,
    /// With its closing quotes.
    Basic(&'static str),
    Literal(&'static str),
}

/// The text with every reference replaced, or all references that cannot be.
pub(super) fn interpolate(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Vec<Refused>> {
    let mut output = String::with_capacity(text.len());
    let mut refused = Vec::new();
    let mut place = Place::Bare;
    let mut at = 0;
    while let Some(next) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = text.get(at..).unwrap_or_default();
        let taken = if place != Place::Comment && rest.starts_with("$${") {
            output.push_str("${");
            3
        } else if place != Place::Comment && rest.starts_with("${") {
            let line = rest.lines().next().unwrap_or_default();
            let length = line.find('}').map_or(line.len(), |end| end + 1);
            let reference = rest.get(..length).unwrap_or(rest).trim_end();
            match replacement(reference, place, env) {
                Ok(value) => output.push_str(&value),
                Err(why) => refused.push(Refused { offset: at, reference: reference.to_owned(), why }),
            }
            length
        } else {
            let length = step(rest, next, &mut place);
            output.push_str(rest.get(..length).unwrap_or_default());
            length
        };
        at += taken;
    }
    if refused.is_empty() { Ok(output) } else { Err(refused) }
}

/// How many bytes to copy, and where that leads.
fn step(rest: &str, next: char, place: &mut Place) -> usize {
    match *place {
        Place::Bare => {
            let opened = [
                ("\"\"\"", Place::Basic("\"\"\"")),
                ("'''", Place::Literal("'''")),
                ("\"", Place::Basic("\"")),
                ("'", Place::Literal("'")),
                ("#", Place::Comment),
            ];
            if let Some((mark, inside)) = opened.into_iter().find(|(mark, _)| rest.starts_with(mark)) {
                *place = inside;
                return mark.len();
            }
        }
        Place::Comment if next == '\n' => *place = Place::Bare,
        Place::Comment => {}
        Place::Basic(_) if next == '\\' => {
            return 1 + rest.chars().nth(1).map_or(0, char::len_utf8);
        }
        Place::Basic(end) | Place::Literal(end) => {
            if rest.starts_with(end) {
                *place = Place::Bare;
                // Up to two quotes may stand before the closing three: `""""` ends a string that ends in a quote.
                let extra = if end.len() == 3 {
                    rest.bytes().skip(3).take(2).take_while(|byte| end.as_bytes().contains(byte)).count()
                } else {
                    0
                };
                return end.len() + extra;
            }
            if end.len() == 1 && next == '\n' {
                *place = Place::Bare;
            }
        }
    }
    next.len_utf8()
}

fn replacement(reference: &str, place: Place, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let name = reference.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if !is_name {
        return Err(
            "expected the name of an environment variable, `${NAME}`; write `$${` for a literal `${`".to_owned()
        );
    }
    let value = env(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
    match place {
        Place::Basic(_) => Ok(escape(&value)),
        Place::Literal(_) if value.contains(|c: char| c == '\'' || (c.is_control() && c != '\t')) => {
            Err(format!("the value of {name} holds a quote or a control character: use double quotes here"))
        }
        Place::Literal(_) => Ok(value),
        Place::Bare | Place::Comment => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_.+-:".contains(c);
            match !value.is_empty() && value.chars().all(plain) {
                true => Ok(value),
                false => Err(format!("the value of {name} is no plain word or number: put quotes around it here")),
            }
        }
    }
}

fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c if c.is_control() => escaped.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str, value: &str) -> Result<String, Vec<String>> {
        let env = |name: &str| (name == "X").then(|| value.to_owned());
        interpolate(text, &env).map_err(|refused| refused.into_iter().map(|refused| refused.why).collect())
    }

    #[test]
    fn a_value_cannot_leave_its_string() {
        let evil = "\"\n[faults]\nenabled = true #\\";
        let text = replaced("a = \"${X}\"\nb = \"\"\"\n${X}\"\"\"\"\n", evil).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table.len(), 2);
        assert_eq!(table["a"].as_str(), Some(evil));
        assert_eq!(table["b"].as_str(), Some(format!("{evil}\"").as_str()));
        assert!(replaced("a = '${X}'", "it's").is_err());
        assert!(replaced("a = ${X}", "1\n[faults]").is_err());
    }

    #[test]
    fn a_bare_reference_may_be_a_number_or_a_word() {
        assert_eq!(replaced("a = ${X} # ${Y}", "5000"), Ok("a = 5000 # ${Y}".to_owned()));
        assert_eq!(replaced("a = '${X}'", "C:\\x"), Ok("a = 'C:\\x'".to_owned()));
    }

    #[test]
    fn a_doubled_dollar_is_kept_as_one() {
        assert_eq!(replaced("a = \"$${X} $5 $$\"", "v"), Ok("a = \"${X} $5 $$\"".to_owned()));
    }

    #[test]
    fn comments_and_escaped_quotes_do_not_confuse_the_walk() {
        assert_eq!(replaced("a = \"\\\"#${X}\" # ${", "v"), Ok("a = \"\\\"#v\" # ${".to_owned()));
        assert_eq!(replaced("a = '#' # ${NO}\nb = \"${X}\"", "v"), Ok("a = '#' # ${NO}\nb = \"v\"".to_owned()));
        assert_eq!(replaced("a = '''\n'${X}'''", "v"), Ok("a = '''\n'v'''".to_owned()));
    }
}
