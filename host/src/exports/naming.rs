//! Rules for the names of exports, where what clients see is not simply what there is.

use std::borrow::Cow;

/// What clients are told of the names of exports, and which names they can ask for. By default everything is
/// as the exports say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    /// The name that the empty one stands for.
    pub default: Option<String>,
    /// Names that are listed with [`ListedNames::These`], and asked for if `strict`.
    pub names: Vec<String>,
    /// Whether clients can ask for no other names.
    pub strict: bool,
    /// What is listed.
    pub listed: ListedNames,
    /// What is told beside the names.
    pub description: Described,
}

/// Which exports are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListedNames {
    /// All that there are.
    #[default]
    All,
    /// None: clients that ask for a list get an error.
    Denied,
    /// None: the list is empty.
    None,
    /// The one that the empty name stands for.
    Default,
    /// Those of [`Naming::names`], whether they are there or not.
    These,
}

/// How exports are described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Described {
    /// As they describe themselves.
    #[default]
    Own,
    /// Not at all.
    Not,
    /// All by this text.
    As(String),
}

impl Naming {
    /// Returns true if a client can ask for an export of this name.
    pub(crate) fn permits(&self, name: &str) -> bool {
        !self.strict || self.names.iter().any(|permitted| permitted == name)
    }

    /// Returns the name that another one stands for.
    pub(crate) fn stands_for<'a>(&'a self, name: &'a str) -> &'a str {
        self.default.as_deref().filter(|_| name.is_empty()).unwrap_or(name)
    }

    /// Returns the description of an export that describes itself so.
    pub(crate) fn describe<'a>(&'a self, own: Cow<'a, str>) -> Cow<'a, str> {
        match &self.description {
            Described::Own => own,
            Described::Not => Cow::Borrowed(""),
            Described::As(text) => Cow::Borrowed(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_they_are_without_rules() {
        let naming = Naming::default();
        assert!(naming.permits("any") && naming.permits(""));
        assert_eq!((naming.stands_for(""), naming.stands_for("a")), ("", "a"));
        assert_eq!(naming.describe("text".into()), "text");
    }

    #[test]
    fn only_these_names_can_be_asked_for_if_the_rules_are_strict() {
        let names = vec!["a".to_owned()];
        let naming = Naming { default: Some("a".into()), names, strict: true, ..Naming::default() };
        assert!(naming.permits("a") && !naming.permits("b") && !naming.permits(""));
        assert_eq!((naming.stands_for(""), naming.stands_for("b")), ("a", "b"));
    }

    #[test]
    fn descriptions_can_be_replaced() {
        let described = |description| {
            let naming = Naming { description, ..Naming::default() };
            naming.describe("own".into()).into_owned()
        };
        assert_eq!(described(Described::Not), "");
        assert_eq!(described(Described::As("other".into())), "other");
    }
}
