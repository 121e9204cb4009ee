//! update-img
