//! The filters of nbdkit that are parts of the server. They are named like other filters, with nbdkit's
//! parameters, but they concern connections and not the content, so their position in a chain has no
//! effect.

mod describe;
mod exit_when;
mod export_name;
mod left_out;
mod rate_file;

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use memnbd::access::{Access, parse_rules};
use memnbd::component::Description;
use memnbd::exports::{Delays, Naming, Policy};
use memnbd::parameters::{Argument, Value, key_value};
use memnbd::places::Places;
use memnbd::rate::{BURST, Limits, Rates, Scope};

pub(super) use describe::{NAMES, description};
pub(super) use exit_when::ExitWhen;
pub(super) use left_out::advice;
pub(super) use rate_file::RateFiles;

/// The filter whose parameters are items of `--export` without it as well.
const RATE: &str = "rate";

/// What plaintext clients read, unless tlsreadme= is given. It is nbdkit's text.
const README: &str =
    "This NBD server requires TLS authentication before it will serve useful data.\n";

/// The longest delay of a client, as of a request.
const MAX_DELAY: Duration = Duration::from_secs(600);

/// How long a connection may last with the filter time-limit, unless it says otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Where filters are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// As `--filter`.
    Option,
    /// As an item of `--export`.
    Item,
}

/// What the filters of a disk, that are parts of the server, ask for.
#[derive(Debug, Default)]
pub(super) struct HostFilters {
    /// The names and parameters, as they were given.
    given: Vec<String>,
    rates: Option<(Rates, Rates)>,
    rate_files: RateFiles,
    /// The most clients; 0 is no limit.
    limit: Option<u64>,
    time_limit: Option<Duration>,
    /// How long clients wait.
    delays: Delays,
    /// Who may connect; of the whole server for [`Place::Option`].
    pub(super) access: Option<Arc<Access>>,
    /// What clients without TLS read.
    pub(super) readme: Option<String>,
    pub(super) exit_last: bool,
    /// The rules for names of exports.
    pub(super) naming: Option<Naming>,
    pub(super) exit_when: ExitWhen,
}

impl HostFilters {
    /// Removes the filters that are parts of the server, and their parameters, from those of a disk.
    /// Relative paths begin at `directory`.
    ///
    /// # Errors
    ///
    /// Returns a message if a filter is left out or has no place here, or if a parameter is not in order.
    pub(super) fn take(
        filters: &mut Vec<String>,
        words: &mut Vec<String>,
        place: Place,
        directory: &Path,
    ) -> Result<Self, String> {
        let mut found = Self::default();
        if let Some(refused) = filters.iter().find_map(|filter| advice(filter)) {
            return Err(refused);
        }
        for (index, &name) in NAMES.iter().enumerate() {
            let count = filters.iter().filter(|filter| *filter == name).count();
            if count > 1 {
                return Err(format!("the filter {name} is given twice; once is enough"));
            }
            filters.retain(|filter| filter != name);
            let Some(description) = description(name) else { continue };
            let own = take_words(words, &description, count > 0, place);
            if count == 0 && own.is_empty() {
                continue;
            }
            found.given.push(name.to_owned());
            found.given.extend(own.iter().cloned());
            if place == Place::Item && describe::is_of_the_server(index) {
                return Err(format!(
                    "the filter {name} is for the whole server; give it as --filter={name}"
                ));
            }
            let arguments = description.parse_arguments(&own);
            let arguments = arguments.map_err(|error| error.of(name).to_string())?;
            found.apply(name, &arguments, directory).map_err(|text| format!("{name}: {text}"))?;
        }
        if filters.iter().any(|filter| filter == describe::DELAY) {
            let description = describe::delays();
            let own = take_words(words, &description, true, place);
            let arguments = description.parse_arguments(&own);
            let arguments = arguments.map_err(|error| error.of(describe::DELAY).to_string())?;
            found.delays = delays(&arguments)?;
            found.given.extend(own);
        }
        Ok(found)
    }

    fn apply(
        &mut self,
        name: &str,
        arguments: &[Argument],
        directory: &Path,
    ) -> Result<(), String> {
        let value = |key: &str| arguments.iter().find(|a| a.name == key).map(|a| &a.value);
        let duration = |key: &str| match value(key) {
            Some(&Value::Duration(nanos)) => Some(Duration::from_nanos(nanos)),
            _ => None,
        };
        let number = |key: &str| match value(key) {
            Some(&Value::Number(number)) => u64::try_from(number).ok(),
            Some(&Value::Size(size)) => Some(size),
            _ => None,
        };
        match name {
            RATE => {
                let rate = |key: &str| number(key).and_then(NonZeroU64::new);
                let burst = duration("burstiness").unwrap_or(BURST);
                let rates =
                    |bits, requests| Rates { bits: rate(bits), requests: rate(requests), burst };
                self.rates = Some((
                    rates("rate", "rate-requests"),
                    rates("connection-rate", "connection-rate-requests"),
                ));
                let file = |key: &str| match value(key) {
                    Some(Value::Text(path)) => Some(directory.join(path)),
                    _ => None,
                };
                self.rate_files = RateFiles::new(file("rate-file"), file("connection-rate-file"));
            }
            "limit" => self.limit = Some(number("limit").unwrap_or(1)),
            "time-limit" => self.time_limit = Some(duration("time-limit").unwrap_or(TIME_LIMIT)),
            "ip" => {
                let rules = |key: &str| {
                    let texts = arguments.iter().filter(|argument| argument.name == key);
                    let mut rules = Vec::new();
                    for argument in texts {
                        let Value::Text(text) = &argument.value else { continue };
                        rules.extend(parse_rules(text).map_err(|error| format!("{key}: {error}"))?);
                    }
                    Ok::<_, String>(rules)
                };
                let access = Access { allow: rules("allow")?, deny: rules("deny")? };
                self.access = Some(Arc::new(access));
            }
            "tls-fallback" => {
                self.readme = Some(match value("tlsreadme") {
                    Some(Value::Text(text)) => text.clone(),
                    _ => README.to_owned(),
                });
            }
            "exitlast" => self.exit_last = true,
            "exportname" => self.naming = Some(export_name::naming(arguments)?),
            _ => self.exit_when = ExitWhen::new(arguments, directory)?,
        }
        Ok(())
    }

    /// Returns true if the same was given, in the same words.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.given == other.given
    }

    /// Returns true if files change the limits.
    pub(super) fn has_files(&self) -> bool {
        !self.rate_files.is_empty()
    }

    /// Returns true if anything is asked for a disk, rather than for the server.
    pub(super) fn is_for_a_disk(&self) -> bool {
        self.rates.is_some() || self.limit.is_some() || self.time_limit.is_some()
    }

    /// Returns what the exports of the disk demand of their clients, besides `server`, the rules of the
    /// whole server. All exports of one disk share the limits.
    pub(super) fn policy(&self, server: Option<&Arc<Access>>) -> Policy {
        let limits = Arc::new(Limits::default());
        if let Some((export, connection)) = self.rates {
            limits.set(Scope::Export, export);
            limits.set(Scope::Connection, connection);
        }
        Policy {
            access: server.into_iter().chain(&self.access).cloned().collect(),
            places: self.limit.filter(|&limit| limit > 0).map(Places::new),
            time_limit: self.time_limit.filter(|limit| !limit.is_zero()),
            delays: self.delays,
            tls: false,
            limits,
            shared_limits: None,
            sizes: None,
        }
    }

    /// Returns the files that change the limits.
    pub(super) fn rate_files(&self, limits: &Arc<Limits>) -> Option<(RateFiles, Arc<Limits>)> {
        let files = self.rate_files.clone();
        (!files.is_empty()).then(|| (files, limits.clone()))
    }
}

/// Returns how long clients wait, by the arguments for that.
fn delays(arguments: &[Argument]) -> Result<Delays, String> {
    let mut delays = Delays::default();
    for Argument { name, value } in arguments {
        let &Value::Duration(nanos) = value else { continue };
        let delay = Duration::from_nanos(nanos);
        if delay > MAX_DELAY {
            return Err(format!("delay: {name} must be at most 10 minutes"));
        }
        match name.as_str() {
            "delay-open" => delays.open = delay,
            _ => delays.close = delay,
        }
    }
    Ok(delays)
}

/// Removes the words that are for a filter from those of a disk: NAME.KEY=VALUE, and KEY=VALUE if the
/// filter is there. Without the filter, the items of `--export` that are rates are meant for it.
fn take_words(
    words: &mut Vec<String>,
    description: &Description,
    given: bool,
    place: Place,
) -> Vec<String> {
    let name = description.name.as_str();
    let implied = place == Place::Item && name == RATE;
    let mut own = Vec::new();
    words.retain(|word| {
        let addressed = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
        if given && let Some(word) = addressed.filter(|word| key_value(word).is_some()) {
            own.push(word.to_owned());
            return false;
        }
        let Some((key, _)) = key_value(word) else { return true };
        let known = description.parameters.iter().any(|parameter| parameter.name == key);
        let taken = known && (given || implied);
        if taken {
            own.push(word.clone());
        }
        !taken
    });
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use memnbd::access::Origin;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn take(filters: &[&str], words: &[&str], place: Place) -> Result<HostFilters, String> {
        HostFilters::take(&mut strings(filters), &mut strings(words), place, Path::new("/"))
    }

    #[test]
    fn filters_and_their_parameters_are_taken_from_wherever_they_stand() {
        let mut filters = strings(&["delay", "rate", "error", "limit"]);
        let mut words = strings(&["1M", "rate=8k", "limit.limit=3", "rdelay=1", "size=rate=1"]);
        let directory = Path::new("/");
        let found = HostFilters::take(&mut filters, &mut words, Place::Option, directory).unwrap();
        assert_eq!(filters, ["delay", "error"]);
        assert_eq!(words, ["1M", "rdelay=1", "size=rate=1"]);
        assert!(found.is_for_a_disk());
        let policy = found.policy(None);
        assert_eq!(policy.limits.rates(Scope::Export).bits, NonZeroU64::new(8192));
        assert_eq!(policy.limits.rates(Scope::Connection), Rates::default());
        let places = policy.places.unwrap();
        let taken: Vec<_> = std::iter::from_fn(|| places.try_enter()).take(10).collect();
        assert_eq!(taken.len(), 3);
    }

    #[test]
    fn delays_of_clients_are_taken_from_the_filter_that_delays_requests() {
        let mut filters = strings(&["delay"]);
        let mut words = strings(&["delay-open=1.5", "rdelay=1", "delay.delay-close=20ms"]);
        let directory = Path::new("/");
        let found = HostFilters::take(&mut filters, &mut words, Place::Item, directory).unwrap();
        assert_eq!((filters, words), (strings(&["delay"]), strings(&["rdelay=1"])));
        let delays = found.policy(None).delays;
        assert_eq!(delays.open, Duration::from_millis(1500));
        assert_eq!(delays.close, Duration::from_millis(20));
        let mut words = strings(&["delay-open=1"]);
        HostFilters::take(&mut Vec::new(), &mut words, Place::Item, directory).unwrap();
        assert_eq!(words, ["delay-open=1"], "without the filter, somebody else may know it");
    }

    #[test]
    fn parameters_without_their_filter_are_left_to_others() {
        let mut words = strings(&["rate=8k", "allow=all"]);
        let directory = Path::new("/");
        let taken = HostFilters::take(&mut Vec::new(), &mut words, Place::Option, directory);
        assert!(!taken.unwrap().is_for_a_disk());
        assert_eq!(words.len(), 2);
        let item = HostFilters::take(&mut Vec::new(), &mut words, Place::Item, directory);
        assert!(item.unwrap().is_for_a_disk());
        assert_eq!(words, ["allow=all"], "rates are items of --export");
    }

    #[test]
    fn defaults_are_those_of_nbdkit() {
        let policy = |filter| take(&[filter], &[], Place::Option).unwrap().policy(None);
        assert_eq!(policy("time-limit").time_limit, Some(TIME_LIMIT));
        let places = policy("limit").places.unwrap();
        let _one = places.try_enter().unwrap();
        assert!(places.try_enter().is_none());
        let unlimited = take(&["limit", "time-limit"], &["limit=0", "time-limit=0"], Place::Option);
        let unlimited = unlimited.unwrap().policy(None);
        assert!(unlimited.places.is_none() && unlimited.time_limit.is_none());
        assert_eq!(take(&["tls-fallback"], &[], Place::Option).unwrap().readme.unwrap(), README);
        assert_eq!(policy("rate").limits.rates(Scope::Export), Rates::default());
    }

    #[test]
    fn rules_of_the_server_and_of_a_disk_must_both_permit() {
        let rules = |words: &[&str]| take(&["ip"], words, Place::Item).unwrap();
        let of_server = rules(&["deny=10.0.0.1"]).access.unwrap();
        let policy = rules(&["deny=10.0.0.2", "deny=10.0.0.3,10.0.0.4"]).policy(Some(&of_server));
        for (last, permitted) in [(1, false), (2, false), (3, false), (4, false), (5, true)] {
            let origin = Origin::Ip([10, 0, 0, last].into());
            let permits = policy.access.iter().all(|access| access.permits(&origin));
            assert_eq!(permits, permitted, "{last}");
        }
    }

    #[test]
    fn mistakes_name_the_filter_and_what_would_be_right() {
        for (filters, words, place, told) in [
            (&["ip"][..], &["allow=me"][..], Place::Option, "ip: allow: \"me\": it is no rule"),
            (&["limit"], &["limit=-1"], Place::Option, "limit: limit: "),
            (&["rate"], &["rate=0"], Place::Option, "rate: rate: "),
            (&["rate"], &["rate=1", "rate=2"], Place::Option, "\"rate\" is given twice"),
            (&["rate", "rate"], &[], Place::Option, "given twice"),
            (&["exitlast"], &[], Place::Item, "give it as --filter=exitlast"),
            (&["tls-fallback"], &[], Place::Item, "--filter=tls-fallback"),
            (&["exitwhen"], &[], Place::Item, "--filter=exitwhen"),
            (&["delay"], &["delay-open=11m"], Place::Option, "delay: delay-open: "),
            (
                &["delay"],
                &["delay-close=601"],
                Place::Item,
                "delay-close must be at most 10 minutes",
            ),
            (&["luks"], &[], Place::Option, "luks"),
        ] {
            let error = take(filters, words, place).unwrap_err();
            assert!(error.contains(told), "{filters:?} {words:?}: {error}");
        }
    }

    #[test]
    fn every_filter_is_described() {
        for name in NAMES {
            let description = description(name).unwrap();
            assert_eq!(description.name, name);
            assert!(!description.summary.is_empty() && advice(name).is_none());
        }
        assert!(description("error").is_none());
    }
}
