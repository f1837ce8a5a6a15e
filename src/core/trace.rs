//! The trace that an event belongs to: a header's text that its producer gave, carried beside the event and never part of its
//! payload. Two forms are known: W3C's `traceparent` and AWS X-Ray's, which EventBridge calls `TraceHeader`.

/// The longest header that an event keeps, in bytes: EventBridge's limit of `TraceHeader`.
pub const TRACE_BYTES_MAX: usize = 500;

/// The trace's id as tools that follow traces show it: 32 lower-case hexadecimal digits. X-Ray's id is the same number with
/// two dashes. `None` where the header is of neither form, or names no trace.
///
/// Sources: <https://www.w3.org/TR/trace-context/#traceparent-header>,
/// <https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader>.
pub fn id(header: &str) -> Option<String> {
    w3c(header).map(str::to_owned).or_else(|| x_ray(header))
}

/// A `traceparent` that every reader takes, of any version.
pub fn is_traceparent(header: &str) -> bool {
    w3c(header).is_some()
}

/// The header in X-Ray's form, which is the only one that EventBridge passes on; what is of neither form stays as it is.
pub fn for_x_ray(header: &str) -> String {
    let Some(trace) = w3c(header) else { return header.to_owned() };
    let mut rest = header.split('-').skip(2);
    let (parent, flags) = (rest.next().unwrap_or_default(), rest.next().unwrap_or_default());
    let sampled = u8::from_str_radix(flags, 16).unwrap_or_default() & 1;
    format!("Root=1-{}-{};Parent={parent};Sampled={sampled}", &trace[..8], &trace[8..])
}

/// `version-trace-parent-flags`; versions after 00 may add to the end.
fn w3c(header: &str) -> Option<&str> {
    let mut parts = header.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (parent, flags) = (parts.next()?, parts.next()?);
    let more = parts.next().is_some();
    let known = is_hex(version, 2) && version != "ff" && !(version == "00" && more);
    let whole = is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    let named = [trace, parent].iter().all(|id| id.bytes().any(|digit| digit != b'0'));
    (known && whole && named).then_some(trace)
}

/// `Root=1-TIME-NUMBER;Parent=…;Sampled=…`, in any order.
fn x_ray(header: &str) -> Option<String> {
    let root = header.split(';').find_map(|part| part.trim().strip_prefix("Root="))?;
    let (time, number) = root.strip_prefix("1-")?.split_once('-')?;
    (is_hex(time, 8) && is_hex(number, 24)).then(|| format!("{time}{number}"))
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_their_trace() {
        let named = Some("5759e988bd862e3fe1be46a994272793".to_owned());
        for header in [
            "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01",
            "cc-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01-what-comes",
            "Root=1-5759e988-bd862e3fe1be46a994272793",
            "Self=1-67891234-12456789abcdef012345678a; Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1",
        ] {
            assert_eq!(id(header), named, "{header}");
        }
    }

    #[test]
    fn event_bridge_gets_the_form_that_it_passes_on() {
        let parent = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";
        let x_ray = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
        assert_eq!((for_x_ray(parent), for_x_ray(x_ray), for_x_ray("own")), (x_ray.into(), x_ray.into(), "own".into()));
        assert_eq!(id(parent), id(&for_x_ray(parent)));
    }

    #[test]
    fn what_is_of_neither_form_names_none() {
        for header in [
            "",
            "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8",
            "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01-more",
            "ff-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01",
            "00-5759E988BD862E3FE1BE46A994272793-53995c3f42cd8ad8-01",
            "00-00000000000000000000000000000000-53995c3f42cd8ad8-01",
            "00-5759e988bd862e3fe1be46a994272793-0000000000000000-01",
            "Root=1-5759e988",
            "Root=2-5759e988-bd862e3fe1be46a994272793",
            "Parent=53995c3f42cd8ad8",
        ] {
            assert_eq!(id(header), None, "{header}");
        }
    }
}
