//! Where a listener stands and where others reach it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::Serialize;

/// `HOST:PORT`, where the host is an IPv4 address, an IPv6 address in brackets, or a name.
///
/// The file gives one address for a listener and for those who call it, so a name is allowed: several hosts then write
/// `api = "eu.internal:7401"` and start with `run --api 0.0.0.0:7401`. `Display` gives what `TcpListener::bind` takes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// An IP address (without brackets) or a host name in lower case.
    pub host: String,
    /// 0 lets the system choose.
    pub port: u16,
}

impl Address {
    /// 127.0.0.1 with this port.
    pub fn loopback(port: u16) -> Self {
        Address { host: "127.0.0.1".to_owned(), port }
    }

    /// Only programs of this host can reach it: 127.0.0.0/8, ::1, `localhost`.
    pub fn is_loopback(&self) -> bool {
        match self.ip() {
            Some(ip) => ip.to_canonical().is_loopback(),
            None => self.host == "localhost",
        }
    }

    /// 0.0.0.0 or `[::]`: fine to listen on, but no address that another host could call.
    pub fn is_unspecified(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected HOST:PORT, such as `127.0.0.1:7401`";
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let all_digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = all_digits.then(|| port.parse().ok()).flatten().ok_or("the port must be between 0 and 65535")?;
        if let Some(inner) = host.strip_prefix('[') {
            let ip: Option<Ipv6Addr> = inner.strip_suffix(']').and_then(|inner| inner.parse().ok());
            let ip = ip.ok_or("what stands in brackets must be an IPv6 address")?;
            return Ok(Address { host: ip.to_string(), port });
        }
        let host = host.to_ascii_lowercase();
        if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()) || is_host_name(&host) {
            return Ok(Address { host, port });
        }
        Err(EXPECTED.to_owned())
    }
}

/// A last label of digits alone is a mistyped IPv4 address, not a name.
fn is_host_name(host: &str) -> bool {
    let label_is_right = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(label_is_right) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_addresses_and_names_parse_and_mistyped_ones_do_not() {
        for good in ["127.0.0.1:7401", "[::1]:7401", "0.0.0.0:0", "eu.internal:7401", "localhost:1", "agent_1:65535"] {
            assert_eq!(good.parse::<Address>().map(|address| address.to_string()).as_deref(), Ok(good));
        }
        for bad in [
            "",
            ":1",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:x",
            "127.0.0.1:65536",
            "127.0.0.1.1:80",
            "::1:80",
            "[::1:80",
            "[x]:80",
            "-a:80",
            "a..b:80",
            "a b:80",
            "1.2.3:4",
            "127.0.0.1:+80",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_addresses_of_this_host_are_loopback() {
        let is_loopback = |text: &str| text.parse::<Address>().is_ok_and(|address| address.is_loopback());
        assert!(["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "LOCALHOST:1"].into_iter().all(is_loopback));
        assert!(!["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"].into_iter().any(is_loopback));
    }
}
