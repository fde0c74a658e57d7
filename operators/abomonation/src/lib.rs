//! An opt-in exchange container encoded with abomonation.
