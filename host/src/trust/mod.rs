//! Who may do what on the admin plane, and whose components are taken: bearer
//! tokens with scopes, a brake on guessing them, and signatures. It decides and
//! keeps nothing: where tokens are stored, and what is served, is not known
//! here.

pub mod failures;
pub mod signature;
pub mod token;
