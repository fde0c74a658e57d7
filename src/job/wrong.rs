//! Why a row is refused by a program.

/// What is wrong with a row that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub(super) column: Option<&'static str>,
    pub(super) why: String,
}

impl Wrong {
    /// The field of `column` is wrong; the error shows it.
    pub fn field(column: &'static str, why: impl Into<String>) -> Self {
        Wrong { column: Some(column), why: why.into() }
    }

    /// The row as a whole is wrong.
    pub fn row(why: impl Into<String>) -> Self {
        Wrong { column: None, why: why.into() }
    }
}
