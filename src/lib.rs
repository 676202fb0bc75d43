//! afterimage: the engine.
