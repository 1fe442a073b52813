//! Label selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.

use std::fmt;

use serde_json::Value;

use super::SelectorError;
use crate::value::{entries, list, text};

/// Longest selector that is parsed, in bytes.
const MAX_LENGTH: usize = 64 * 1024;

/// A parsed label selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// One condition of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// How the label's value is compared.
    pub operator: Operator,
    /// What it is compared with.
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Its value is among the values.
    In,
    /// It is absent, or its value is not among the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
    /// Its value is an integer greater than the value.
    GreaterThan,
    /// Its value is an integer less than the value.
    LessThan,
}

impl LabelSelector {
    /// Parses a selector as it appears in a query.
    pub fn parse(selector: &str) -> Result<LabelSelector, SelectorError> {
        if selector.len() > MAX_LENGTH {
            return Err(SelectorError(format!("label selector is longer than {MAX_LENGTH} bytes")));
        }
        let mut parser = Parser { tokens: tokens(selector), at: 0 };
        let mut requirements = Vec::new();
        if !parser.done() {
            loop {
                requirements.push(parser.requirement()?);
                if parser.done() {
                    break;
                }
                parser.expect(&Token::Comma)?;
                if parser.done() {
                    return Err(SelectorError(
                        "unable to parse requirement: found '', expected: identifier after ','".into(),
                    ));
                }
            }
        }
        Ok(LabelSelector { requirements })
    }

    /// From a `metav1.LabelSelector` (matchLabels, matchExpressions). Null and `{}` match everything.
    pub fn from_value(value: &Value) -> Result<LabelSelector, SelectorError> {
        let mut requirements: Vec<Requirement> = entries(value, "/matchLabels")
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.as_str().unwrap_or("").to_owned()],
            })
            .collect();
        for expression in list(value, "/matchExpressions") {
            let operator = match text(expression, "/operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("\"{other}\" is not a valid label selector operator")));
                }
            };
            let values =
                list(expression, "/values").iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
            requirements.push(Requirement { key: text(expression, "/key").to_owned(), operator, values });
        }
        Ok(LabelSelector { requirements })
    }

    /// From a map of labels that must all be equal, as in `spec.selector` of a Service.
    pub fn from_map(labels: &Value) -> LabelSelector {
        let requirements = labels
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.as_str().unwrap_or("").to_owned()],
            })
            .collect();
        LabelSelector { requirements }
    }

    /// The conditions.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it has no requirement.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether a map of labels (or null) matches.
    pub fn matches(&self, labels: &Value) -> bool {
        self.requirements.iter().all(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    }
}

impl Requirement {
    fn matches(&self, label: Option<&str>) -> bool {
        let among = |v: &str| self.values.iter().any(|w| w == v);
        let compared = |wanted: std::cmp::Ordering| {
            let pair = (
                label.and_then(|v| v.parse::<i64>().ok()),
                self.values.first().and_then(|v| v.parse::<i64>().ok()),
            );
            matches!(pair, (Some(a), Some(b)) if a.cmp(&b) == wanted)
        };
        match self.operator {
            Operator::In => label.is_some_and(among),
            Operator::NotIn => !label.is_some_and(among),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => compared(std::cmp::Ordering::Greater),
            Operator::LessThan => compared(std::cmp::Ordering::Less),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In if self.values.len() == 1 => write!(f, "{key}={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn if self.values.len() == 1 => write!(f, "{key}!={values}"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Comma,
    Open,
    Close,
    Not,
    Equal,
    NotEqual,
    Greater,
    Less,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Word(word) => word,
            Token::Comma => ",",
            Token::Open => "(",
            Token::Close => ")",
            Token::Not => "!",
            Token::Equal => "=",
            Token::NotEqual => "!=",
            Token::Greater => ">",
            Token::Less => "<",
        })
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut result = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            _ if c.is_whitespace() => continue,
            ',' => Token::Comma,
            '(' => Token::Open,
            ')' => Token::Close,
            '>' => Token::Greater,
            '<' => Token::Less,
            '=' => {
                chars.next_if_eq(&'=');
                Token::Equal
            }
            '!' => match chars.next_if_eq(&'=') {
                Some(_) => Token::NotEqual,
                None => Token::Not,
            },
            _ => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !",()><=!".contains(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
        };
        result.push(token);
    }
    result
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn wrong<T>(&self, found: Option<Token>, expected: &str) -> Result<T, SelectorError> {
        let found = found.map(|t| t.to_string()).unwrap_or_default();
        Err(SelectorError(format!("unable to parse requirement: found '{found}', expected: {expected}")))
    }

    fn expect(&mut self, token: &Token) -> Result<(), SelectorError> {
        match self.next() {
            Some(found) if found == *token => Ok(()),
            found => self.wrong(found, &format!("'{token}'")),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = self.peek() == Some(&Token::Not);
        if negated {
            self.at += 1;
        }
        let key = match self.next() {
            Some(Token::Word(key)) => key,
            found => return self.wrong(found, "!, identifier, or 'end of string'"),
        };
        if let Some(problem) = crate::validate::qualified_name_problem(&key) {
            return Err(SelectorError(format!(
                "unable to parse requirement: <nil>: Invalid value: \"{key}\": {problem}"
            )));
        }
        if negated {
            return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        if matches!(self.peek(), None | Some(Token::Comma)) {
            return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
        }
        let (operator, values) = match self.next() {
            Some(Token::Equal) => (Operator::In, vec![self.one_value()?]),
            Some(Token::NotEqual) => (Operator::NotIn, vec![self.one_value()?]),
            Some(Token::Greater) => (Operator::GreaterThan, vec![self.integer(&key)?]),
            Some(Token::Less) => (Operator::LessThan, vec![self.integer(&key)?]),
            Some(Token::Word(word)) if word == "in" => (Operator::In, self.values()?),
            Some(Token::Word(word)) if word == "notin" => (Operator::NotIn, self.values()?),
            found => return self.wrong(found, "in, notin, =, ==, !=, gt, lt"),
        };
        for value in &values {
            if let Some(problem) = crate::validate::label_value_problem(value) {
                return Err(SelectorError(format!(
                    "unable to parse requirement: values[0][{key}]: Invalid value: \"{value}\": {problem}"
                )));
            }
        }
        Ok(Requirement { key, operator, values })
    }

    fn one_value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            None | Some(Token::Comma) => Ok(String::new()),
            _ => match self.next() {
                Some(Token::Word(word)) => Ok(word),
                found => self.wrong(found, "identifier"),
            },
        }
    }

    fn integer(&mut self, key: &str) -> Result<String, SelectorError> {
        let value = self.one_value()?;
        match value.parse::<i64>() {
            Ok(_) => Ok(value),
            Err(_) => Err(SelectorError(format!(
                "unable to parse requirement: values[0][{key}]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must be an integer"
            ))),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        self.expect(&Token::Open)?;
        let mut values = Vec::new();
        loop {
            let value = match self.peek() {
                Some(Token::Word(_)) => match self.next() {
                    Some(Token::Word(word)) => word,
                    found => return self.wrong(found, "identifier"),
                },
                _ => String::new(),
            };
            if !values.contains(&value) {
                values.push(value);
            }
            match self.next() {
                Some(Token::Comma) => {}
                Some(Token::Close) => return Ok(values),
                found => return self.wrong(found, "',' or ')'"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn matches() {
        let labels = json!({"app": "web", "tier": "front", "n": "5"});
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app=db", false),
            ("app!=db", true),
            ("none!=x", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db)", true),
            ("none notin (x)", true),
            ("app", true),
            ("none", false),
            ("!none", true),
            ("!app", false),
            ("app=web,tier=front", true),
            ("app=web,tier=back", false),
            ("n>4", true),
            ("n<5", false),
            ("app>1", false),
            ("app=", false),
            ("a.b/c=d", false),
            ("tier in (front),!x , app", true),
        ];
        for (text, expected) in cases {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&labels), expected, "{text}");
        }
    }

    #[test]
    fn refuses() {
        for text in
            ["=a", "a in", "a in (b", "a,,b", "a,", "a b", "a=b c", "a>x", "-a=b", "a=-", "(", "a=b=c"]
        {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn from_values() {
        let selector = LabelSelector::from_value(&json!({
            "matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}],
        }))
        .unwrap();
        assert_eq!(selector.to_string(), "a=b,c in (d,e),!f");
        assert!(selector.matches(&json!({"a": "b", "c": "e"})));
        assert!(!selector.matches(&json!({"a": "b", "c": "e", "f": ""})));
        assert!(LabelSelector::from_value(&json!({})).unwrap().matches(&Value::Null));
        assert!(LabelSelector::from_value(&json!({"matchExpressions": [{"operator": "X"}]})).is_err());
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let name = "[a-z]([a-z0-9.-]{0,6}[a-z0-9])?";
        (name, 0..4_u8, prop::collection::btree_set(name, 1..4)).prop_map(|(key, operator, values)| {
            let values: Vec<String> = values.into_iter().collect();
            let (operator, values) = match operator {
                0 => (Operator::In, values),
                1 => (Operator::NotIn, values),
                2 => (Operator::Exists, Vec::new()),
                _ => (Operator::DoesNotExist, Vec::new()),
            };
            Requirement { key, operator, values }
        })
    }

    proptest! {
        #[test]
        fn text_round_trip(requirements in prop::collection::vec(requirement(), 0..5)) {
            let selector = LabelSelector { requirements };
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn opposites_exclude_each_other(r in requirement(), label in prop::option::of("[a-z]{1,2}")) {
            let opposite = match r.operator {
                Operator::In => Operator::NotIn,
                Operator::NotIn => Operator::In,
                Operator::Exists => Operator::DoesNotExist,
                _ => Operator::Exists,
            };
            let other = Requirement { operator: opposite, ..r.clone() };
            prop_assert_ne!(r.matches(label.as_deref()), other.matches(label.as_deref()));
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = LabelSelector::parse(&text);
        }
    }
}
