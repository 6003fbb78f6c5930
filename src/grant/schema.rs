//! The Cedar schema that contracts give.
