//! One running server: everything put together, and taken apart again.
