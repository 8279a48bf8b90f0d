//! The query of a request to the admin plane: only names that the path knows.

use http::Uri;

use super::respond::{Kind, Problem};

/// The query of a request, with only the names that the path knows: a
/// misspelt `region` must not deploy everywhere.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Of a request whose path knows these names, each once.
    ///
    /// # Errors
    ///
    /// There is another name, or one twice.
    pub fn of(uri: &Uri, names: &[&str]) -> Result<Query, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(value)
                .decode_utf8_lossy()
                .into_owned();
            if !names.contains(&name) || pairs.iter().any(|(seen, _)| seen == name) {
                let detail = format!(
                    "query parameter {name:?}: this path takes each of {} once",
                    names.join(", ")
                );
                return Err(Problem::new(Kind::BadRequest, detail));
            }
            pairs.push((name.to_owned(), value));
        }
        Ok(Query(pairs))
    }

    /// A parameter as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// A parameter as a number.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, Problem> {
        self.text(name)
            .map(|text| {
                let detail = || format!("query parameter {name:?}: {text:?} is not a number");
                text.parse()
                    .map_err(|_| Problem::new(Kind::BadRequest, detail()))
            })
            .transpose()
    }

    /// A parameter as a list, its parts separated by commas.
    pub fn list(&self, name: &str) -> Option<Vec<String>> {
        let text = self.text(name)?;
        Some(text.split(',').map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_parameter_is_refused() {
        let of = |text: &str| Query::of(&text.parse().unwrap(), &["region", "to"]);
        assert_eq!(of("/x?region=a%2Db").unwrap().text("region"), Some("a-b"));
        assert!(of("/x?regoin=a").is_err() && of("/x?region=a&region=b").is_err());
        assert_eq!(of("/x?to=7").unwrap().number::<u64>("to").unwrap(), Some(7));
        assert!(of("/x?to=seven").unwrap().number::<u64>("to").is_err());
    }

    #[test]
    fn a_list_is_separated_by_commas() {
        let of = |text: &str| Query::of(&text.parse().unwrap(), &["region"]).unwrap();
        assert_eq!(of("/x").list("region"), None);
        assert_eq!(of("/x?region=a,b").list("region").unwrap(), ["a", "b"]);
        assert_eq!(of("/x?region=a%2Cb").list("region").unwrap(), ["a", "b"]);
        // Which is no region's name.
        assert_eq!(of("/x?region=").list("region").unwrap(), [""]);
    }
}
