//! Who may use an export, by where the client connects from.
//!
//! The rules and their notation are those of nbdkit-ip-filter(1). This module does not know what the
//! access is to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Where a client connects from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// An IP address.
    Ip(IpAddr),
    /// A Unix domain socket, and the process at its other end if the kernel tells.
    Unix(Option<Process>),
    /// A vsock address.
    Vsock {
        /// The context: a virtual machine or the host.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// Unknown, such as stdin. Only the rules `all` and `any` are for it.
    #[default]
    Unknown,
}

/// Who a client is by the credentials that it presented with TLS, and that were verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsIdentity {
    /// It presented none.
    Nobody,
    /// It has the key of this identity.
    Key(String),
    /// It has a certificate with this subject: its attributes from the first to the last, as in
    /// `CN=builder,O=Example`. The characters `,`, `+`, `=` and `\` in values follow a backslash.
    Certificate(String),
}

/// A process that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its ID, if it is in this process's namespace.
    pub pid: Option<i32>,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Whom an export is for: a client that a rule of `allow` matches, or else one that no rule of `deny`
/// matches. Without rules it is for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The rules that allow.
    pub allow: Vec<Rule>,
    /// The rules that deny.
    pub deny: Vec<Rule>,
}

/// A rule that matches some clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// All clients.
    Any,
    /// All IPv4 addresses.
    AnyIpv4,
    /// All IPv6 addresses.
    AnyIpv6,
    /// All Unix domain sockets.
    AnyUnix,
    /// All vsock addresses.
    AnyVsock,
    /// The addresses of a network, or a single one.
    Network(IpNet),
    /// A process.
    Pid(i32),
    /// A user.
    Uid(u32),
    /// A group.
    Gid(u32),
    /// A vsock context.
    VsockCid(u32),
    /// A vsock port.
    VsockPort(u32),
}

impl Access {
    /// Returns true if a client may use what this is for.
    pub fn permits(&self, origin: &Origin) -> bool {
        // What is not known is no reason to allow anything, and not to deny it.
        let allowed = |rule: &Rule| rule.matches(origin).unwrap_or(false);
        let denied = |rule: &Rule| rule.matches(origin).unwrap_or(true);
        self.allow.iter().any(allowed) || !self.deny.iter().any(denied)
    }
}

/// Parses rules that are separated by commas.
///
/// # Errors
///
/// Returns an error for the first rule that is not in the notation.
pub fn parse_rules(text: &str) -> Result<Vec<Rule>, RuleError> {
    text.split(',').map(str::parse).collect()
}

impl Rule {
    /// Returns whether the rule matches a client, or `None` if that cannot be known.
    fn matches(&self, origin: &Origin) -> Option<bool> {
        Some(match (self, origin) {
            (Self::Any, _) => true,
            (Self::AnyIpv4, Origin::Ip(address)) => address.to_canonical().is_ipv4(),
            (Self::AnyIpv6, Origin::Ip(address)) => address.to_canonical().is_ipv6(),
            // A socket for both families reports an IPv4 address as a mapped one.
            (Self::Network(network), Origin::Ip(address)) => {
                network.contains(&address.to_canonical()) || network.contains(address)
            }
            (Self::AnyUnix, Origin::Unix(_)) | (Self::AnyVsock, Origin::Vsock { .. }) => true,
            (Self::Pid(pid), Origin::Unix(process)) => *pid == (*process)?.pid?,
            (Self::Uid(uid), Origin::Unix(process)) => *uid == (*process)?.uid,
            (Self::Gid(gid), Origin::Unix(process)) => *gid == (*process)?.gid,
            (Self::VsockCid(rule), Origin::Vsock { cid, .. }) => rule == cid,
            (Self::VsockPort(rule), Origin::Vsock { port, .. }) => rule == port,
            _ => false,
        })
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let error = |reason| RuleError { text: text.to_owned(), reason };
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "" => return Err(error(Reason::Empty)),
            "all" | "any" => return Ok(Self::Any),
            "allipv4" | "anyipv4" => return Ok(Self::AnyIpv4),
            "allipv6" | "anyipv6" => return Ok(Self::AnyIpv6),
            "allunix" | "anyunix" => return Ok(Self::AnyUnix),
            "allvsock" | "anyvsock" => return Ok(Self::AnyVsock),
            _ => {}
        }
        let number = |digits: &str| {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| is_number).ok_or_else(|| error(Reason::Number))
        };
        match lower.split_once(':') {
            Some(("pid", id)) => {
                let id = number(id)?;
                let pid = i32::try_from(id).ok().filter(|&pid| pid > 0);
                return pid.map(Self::Pid).ok_or_else(|| error(Reason::Number));
            }
            Some(("uid", id)) => return number(id).map(Self::Uid),
            Some(("gid", id)) => return number(id).map(Self::Gid),
            Some(("vsock-cid", id)) => return number(id).map(Self::VsockCid),
            Some(("vsock-port", id)) => return number(id).map(Self::VsockPort),
            Some(("security", _)) => return Err(error(Reason::Label)),
            Some(("dn" | "issuer-dn", _)) => return Err(error(Reason::Certificate)),
            _ => {}
        }
        let network = match text.contains('/') {
            true => text.parse().map_err(|_| error(Reason::Network))?,
            false => text.parse::<IpAddr>().map_err(|_| error(Reason::Unknown))?.into(),
        };
        Ok(Self::Network(network))
    }
}

/// A text is not a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    text: String,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Empty,
    Number,
    Network,
    Label,
    Certificate,
    Unknown,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, reason } = self;
        let reason = match reason {
            Reason::Empty => "a rule is empty; rules are separated by single commas",
            Reason::Number => {
                "after the colon is a number: of a process at least 1, of others from 0 to 4294967295"
            }
            Reason::Network => {
                "it is no network; right would be 192.168.2.0/24 or 2001:db8::/32, with a prefix of at \
                 most 32 or 128 bits"
            }
            Reason::Label => {
                "security labels are not supported; use uid:UID or gid:GID, or a policy of the kernel"
            }
            Reason::Certificate => {
                "names in certificates are not supported; use --tls-verify-peer with a CA whose \
                 certificates only these clients have"
            }
            Reason::Unknown => {
                "it is no rule; right would be all, allipv4, allipv6, allunix, allvsock, an IP address \
                 or network, pid:PID, uid:UID, gid:GID, vsock-cid:CID or vsock-port:PORT"
            }
        };
        write!(f, "{text:?}: {reason}")
    }
}

impl std::error::Error for RuleError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Origin {
        Origin::Ip(text.parse().unwrap())
    }

    fn process(pid: i32, uid: u32, gid: u32) -> Origin {
        Origin::Unix(Some(Process { pid: Some(pid), uid, gid }))
    }

    fn permits(allow: &str, deny: &str, origin: &Origin) -> bool {
        let rules = |text: &str| match text {
            "" => Vec::new(),
            text => parse_rules(text).unwrap(),
        };
        Access { allow: rules(allow), deny: rules(deny) }.permits(origin)
    }

    #[test]
    fn allow_comes_before_deny_and_the_rest_is_permitted() {
        let (one, other) = (ip("10.0.0.1"), ip("10.0.0.2"));
        assert!(permits("", "", &one));
        assert!(permits("10.0.0.2", "", &one), "allow alone denies nobody");
        assert!(!permits("", "10.0.0.1", &one) && permits("", "10.0.0.1", &other));
        assert!(permits("10.0.0.1", "all", &one) && !permits("10.0.0.1", "all", &other));
        assert!(!permits("", "all", &Origin::Unknown) && permits("any", "all", &Origin::Unknown));
        assert!(!permits("allipv4,allipv6,allunix,allvsock", "all", &Origin::Unknown));
    }

    #[test]
    fn rules_match_what_they_name() {
        let vsock = Origin::Vsock { cid: 3, port: 9 };
        let origins = [
            ip("192.168.2.200"),
            ip("2001:db8::5"),
            process(7, 1000, 100),
            vsock,
            Origin::Unix(None),
        ];
        for (rule, matched) in [
            ("all", "11111"),
            ("ANY", "11111"),
            ("allipv4", "10000"),
            ("AnyIPv4", "10000"),
            ("anyipv6", "01000"),
            ("allunix", "00101"),
            ("anyvsock", "00010"),
            ("192.168.2.200", "10000"),
            ("192.168.2.201", "00000"),
            ("192.168.2.0/24", "10000"),
            ("192.168.2.7/24", "10000"),
            ("0.0.0.0/0", "10000"),
            ("192.168.2.200/32", "10000"),
            ("192.168.3.0/24", "00000"),
            ("2001:DB8::/32", "01000"),
            ("2001:db8::5", "01000"),
            ("::/0", "01000"),
            ("pid:7", "00100"),
            ("pid:8", "00000"),
            ("uid:1000", "00100"),
            ("gid:100", "00100"),
            ("gid:1000", "00000"),
            ("vsock-cid:3", "00010"),
            ("vsock-port:9", "00010"),
            ("vsock-port:3", "00000"),
        ] {
            let found: String =
                origins.iter().map(|o| if permits(rule, "all", o) { '1' } else { '0' }).collect();
            assert_eq!(found, matched, "{rule}");
        }
    }

    #[test]
    fn mapped_addresses_are_those_of_ipv4() {
        let mapped = ip("::ffff:10.0.0.1");
        assert!(!permits("", "10.0.0.0/8", &mapped));
        assert!(!permits("", "allipv4", &mapped) && permits("", "allipv6", &mapped));
        assert!(permits("::ffff:10.0.0.1", "all", &mapped));
    }

    #[test]
    fn unknown_process_is_denied_where_a_rule_could_be_for_it() {
        let unknown = Origin::Unix(None);
        for rule in ["uid:0", "gid:0", "pid:1"] {
            assert!(!permits(rule, "all", &unknown) && !permits("", rule, &unknown), "{rule}");
        }
        let foreign = Origin::Unix(Some(Process { pid: None, uid: 5, gid: 5 }));
        assert!(!permits("", "pid:1", &foreign) && permits("", "uid:6", &foreign));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", Reason::Empty),
            ("all,,any", Reason::Empty),
            ("all,", Reason::Empty),
            ("localhost", Reason::Unknown),
            ("10.0.0", Reason::Unknown),
            ("10.0.0.1 ", Reason::Unknown),
            ("user:5", Reason::Unknown),
            ("10.0.0.0/33", Reason::Network),
            ("10.0.0.0/", Reason::Network),
            ("::/129", Reason::Network),
            ("pid:0", Reason::Number),
            ("pid:-1", Reason::Number),
            ("uid:+1", Reason::Number),
            ("uid:root", Reason::Number),
            ("uid:", Reason::Number),
            ("gid:4294967296", Reason::Number),
            ("security:x", Reason::Label),
            ("dn:*,O=BigCo", Reason::Certificate),
            ("issuer-dn:x", Reason::Certificate),
        ] {
            assert_eq!(parse_rules(text).unwrap_err().reason, reason, "{text:?}");
        }
        let told = parse_rules("uid:0,me").unwrap_err().to_string();
        assert!(told.starts_with("\"me\": it is no rule; right would be all, "), "{told}");
    }
}
