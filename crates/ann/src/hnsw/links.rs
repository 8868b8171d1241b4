//! The links of a vertex on pages: choosing, adding and replacing them.
//!
//! A choice is made without a lock, on a copy ([`Neighbourhood`]), and stands
//! only if nobody has changed the list meanwhile ([`Index::replace_links`]).
//! Over fused codes a copy of one vertex is all that is looked at: what it holds
//! of its neighbours tells how far these are from it, and from a new one.

use super::codec::{Code, Codec};
use super::index::Index;
use super::layout::{NONE, Place, Slot, SlotMut, State, Vertex};
use super::neighbours::{Heuristic, Link, least_useful};
use crate::Error;
use crate::page::{BODY_LEN, Block, Body, MAX_PAGES_PER_RECORD, PageStore};

/// A vertex that others are to be linked to.
pub(super) struct Newcomer<'a, Q> {
    pub number: Vertex,
    pub code: &'a Code,
    /// What is near to the code.
    pub query: &'a Q,
}

/// Neighbours chosen for a new vertex.
#[derive(Default)]
pub(super) struct Chosen {
    pub places: Vec<Place>,
    /// Their codes.
    codes: Vec<Code>,
}

/// The links of a new vertex: its neighbours, and what is stored beside each.
pub(super) struct Links {
    pub places: Vec<Place>,
    pub codes: Code,
}

/// The links of a live vertex, copied off its pages to be changed.
pub(super) struct Neighbourhood<Q> {
    heuristic: Heuristic,
    /// The vertex's own code.
    pub own: Code,
    /// The query for what is near to it.
    pub query: Q,
    /// The places as they are to be.
    pub places: Vec<Place>,
    /// The places as they were read.
    seen: Vec<Place>,
    /// The distance of the neighbour at each place.
    distances: Vec<f32>,
    beside: Beside,
    /// Places whose neighbour is new, with its code.
    added: Vec<(usize, Code)>,
}

/// What tells how far the neighbours at all places are from a query.
enum Beside {
    /// The codes beside the links.
    Links(Code),
    /// The neighbours' own codes, if they are there.
    Neighbours(Vec<Option<Code>>),
}

/// How far a newcomer is.
pub(super) struct Away {
    /// From the vertex.
    distance: f32,
    /// From the neighbours at all places.
    keys: Vec<f32>,
}

impl<Q> Neighbourhood<Q> {
    /// Whether there is a link to a vertex.
    pub fn contains(&self, vertex: Vertex) -> bool {
        self.places.iter().any(|place| place.number == vertex)
    }

    /// The neighbours.
    pub fn neighbours(&self) -> impl Iterator<Item = Vertex> + '_ {
        let numbers = self.places.iter().map(|place| place.number);
        numbers.filter(|&number| number != NONE)
    }

    /// The neighbours, each with its distance.
    pub fn with_distances(&self) -> impl Iterator<Item = (f32, Vertex)> + '_ {
        let distances = self.distances.iter().copied();
        let numbers = self.places.iter().map(|place| place.number);
        distances.zip(numbers).filter(|&(_, number)| number != NONE)
    }

    /// The positions of the links to some vertices.
    pub fn positions_of(&self, wanted: impl Fn(Vertex) -> bool) -> Vec<usize> {
        let is_wanted = |place: &Place| place.number != NONE && wanted(place.number);
        (0..self.places.len())
            .filter(|&position| is_wanted(&self.places[position]))
            .collect()
    }

    /// How many more links there is room for.
    pub fn room(&self) -> usize {
        self.heuristic.capacity() - self.neighbours().count().min(self.heuristic.capacity())
    }

    /// Takes all links out.
    pub fn clear(&mut self) {
        (0..self.places.len()).for_each(|position| self.remove(position));
    }

    /// Takes the link at a position out.
    pub fn remove(&mut self, position: usize) {
        self.places[position] = Place::EMPTY;
        self.added.retain(|(added, _)| *added != position);
    }

    /// How far a newcomer is from the vertex and from its neighbours.
    pub fn measure<C: Codec<Query = Q>>(&self, codec: &C, new: &Newcomer<'_, Q>) -> Away {
        Away {
            distance: codec.distance(self.own.bytes(), new.code.bytes()),
            keys: self.keys(codec, new.query),
        }
    }

    /// Whether a newcomer, measured now, would be a diverse neighbour.
    pub fn is_diverse(&self, away: &Away) -> bool {
        let (positions, links) = self.links();
        (self.heuristic).is_diverse(&links, away.distance, |i, _| away.keys[positions[i]])
    }

    /// Adds a link to a newcomer, measured now, as the heuristic says;
    /// false if it turned the newcomer down.
    pub fn add(&mut self, new: &Newcomer<'_, Q>, away: &Away) -> bool {
        let (positions, mut links) = self.links();
        let between = |i: usize, _| away.keys[positions[i]];
        let added = (self.heuristic).add(&mut links, away.distance, new.number, between);
        let Some(added) = added else {
            return false;
        };
        for (&position, link) in positions.iter().zip(&links) {
            self.places[position].diverse = link.diverse;
        }
        let new_place = Place {
            number: new.number,
            diverse: links[added].diverse,
        };
        let position = match positions.get(added) {
            Some(&position) => position,
            None => self.vacant(),
        };
        self.put(position, new_place, away.distance, new.code);
        true
    }

    /// The links that are there, and their positions.
    fn links(&self) -> (Vec<usize>, Vec<Link>) {
        (self.places.iter().enumerate())
            .filter(|(_, place)| place.number != NONE)
            .map(|(position, place)| {
                let link = Link {
                    distance: self.distances[position],
                    diverse: place.diverse,
                    vertex: place.number,
                };
                (position, link)
            })
            .unzip()
    }

    /// Adds a link in any case, if need be in the place of the one that the
    /// heuristic puts last; returns the neighbour that had it.
    pub fn force<C: Codec<Query = Q>>(
        &mut self,
        codec: &C,
        vertex: Vertex,
        code: &Code,
    ) -> Option<Vertex> {
        let position = match self.room() {
            0 => self.least_useful(),
            _ => self.vacant(),
        };
        let before = self.places.get(position).map(|place| place.number);
        // It is there so that the vertex can be reached: it is to stay.
        let place = Place {
            number: vertex,
            diverse: true,
        };
        let distance = codec.distance(self.own.bytes(), code.bytes());
        self.put(position, place, distance, code);
        before.filter(|&before| before != NONE)
    }

    /// The place of the link that is the first to go.
    fn least_useful(&self) -> usize {
        let (positions, links) = self.links();
        least_useful(&links).map_or(0, |i| positions[i])
    }

    /// The first place that is not in use.
    fn vacant(&self) -> usize {
        let vacant = self.places.iter().position(|place| place.number == NONE);
        vacant.unwrap_or(self.places.len())
    }

    fn put(&mut self, position: usize, place: Place, distance: f32, code: &Code) {
        if position == self.places.len() {
            self.places.push(Place::EMPTY);
        }
        if position >= self.distances.len() {
            self.distances.resize(position + 1, f32::INFINITY);
        }
        self.remove(position);
        self.places[position] = place;
        self.distances[position] = distance;
        self.added.push((position, code.clone()));
    }

    /// About the keys of the neighbours at all places for a query.
    fn keys<C: Codec<Query = Q>>(&self, codec: &C, query: &Q) -> Vec<f32> {
        let mut keys = Vec::with_capacity(self.heuristic.capacity().next_multiple_of(32));
        match &self.beside {
            Beside::Links(links) => {
                let own = self.own.bytes();
                let measured = codec.measure(query, own);
                codec.estimates(query, own, measured, links.bytes(), &mut keys);
            }
            Beside::Neighbours(codes) => keys.extend(codes.iter().map(|code| {
                code.as_ref()
                    .map_or(f32::INFINITY, |code| codec.key(query, code.bytes()))
            })),
        }
        if keys.len() < self.places.len() {
            keys.resize(self.places.len(), f32::INFINITY);
        }
        for (position, code) in &self.added {
            keys[*position] = codec.key(query, code.bytes());
        }
        keys
    }
}

impl<'s, S: PageStore, C: Codec> Index<'s, S, C> {
    /// Of the candidates (nearest first, of one level), at most `limit`
    /// diverse ones.
    pub(super) fn select(
        &self,
        candidates: &[(f32, Vertex)],
        level: u8,
        limit: usize,
    ) -> Result<Chosen, Error> {
        // Codes are compared many times each: copy them off their pages once.
        let mut kept = Vec::with_capacity(candidates.len());
        for &(distance, vertex) in candidates {
            if let Some(code) = self.code_of(vertex, level)? {
                kept.push((distance, vertex, Some(code)));
            }
        }
        let distances: Vec<f32> = kept.iter().map(|(distance, ..)| *distance).collect();
        let code = |i: usize| kept[i].2.as_ref().map_or(&[][..], Code::bytes);
        let between = |i: usize, j: usize| self.codec.distance(code(i), code(j));
        let heuristic = Heuristic::new(&self.options, limit);
        let (indices, diverse) = heuristic.select(&distances, between);
        let mut chosen = Chosen::default();
        for (n, i) in indices.into_iter().enumerate() {
            chosen.places.push(Place {
                number: kept[i].1,
                diverse: n < diverse,
            });
            chosen.codes.extend(kept[i].2.take());
        }
        Ok(chosen)
    }

    /// What the vertex with the code `own` stores of chosen neighbours.
    pub(super) fn links(&self, own: &Code, chosen: &Chosen) -> Links {
        let mut links = Links {
            places: chosen.places.clone(),
            codes: Code::zeroed(self.layout.links_len()),
        };
        if self.is_fused() {
            let codes: Vec<(usize, &[u8])> =
                chosen.codes.iter().map(Code::bytes).enumerate().collect();
            self.codec
                .encode_links(own.bytes(), &codes, links.codes.bytes_mut());
        }
        links
    }

    /// The places for neighbours of a live vertex.
    pub(super) fn live_places(
        &self,
        vertex: Vertex,
        level: u8,
    ) -> Result<Option<Vec<Vertex>>, Error> {
        self.with_slot(vertex, |slot| {
            is_live(&slot, level).then(|| slot.places().to_vec())
        })
    }

    /// A copy of the links of a live vertex.
    pub(super) fn neighbourhood(
        &self,
        vertex: Vertex,
        level: u8,
    ) -> Result<Option<Neighbourhood<C::Query>>, Error> {
        let mut own = Code::zeroed(self.layout.code_len);
        let mut links = Code::zeroed(self.layout.links_len());
        let places = self.with_vertex(vertex, level, |slot| {
            own.bytes_mut().copy_from_slice(slot.code(&self.layout));
            links.bytes_mut().copy_from_slice(slot.links(&self.layout));
            is_live(&slot, level).then(|| slot.marked_places(&self.layout))
        })?;
        let Some(places) = places.flatten() else {
            return Ok(None);
        };
        let beside = if self.is_fused() {
            Beside::Links(links)
        } else {
            let codes = places.iter().map(|place| match place.number {
                NONE => Ok(None),
                number => self.code_of(number, level),
            });
            Beside::Neighbours(codes.collect::<Result<_, _>>()?)
        };
        let query = self.codec.query_of_code(own.bytes());
        let mut list = Neighbourhood {
            heuristic: Heuristic::new(&self.options, self.layout.capacity(level)),
            own,
            query,
            seen: places.clone(),
            places,
            distances: Vec::new(),
            beside,
            added: Vec::new(),
        };
        list.distances = list.keys(&self.codec, &list.query);
        Ok(Some(list))
    }

    /// Adds a link to a vertex as the heuristic says.
    pub(super) fn add_link(
        &self,
        vertex: Vertex,
        level: u8,
        new: &Newcomer<'_, C::Query>,
    ) -> Result<(), Error> {
        while let Some(mut list) = self.neighbourhood(vertex, level)? {
            if list.contains(new.number)
                || !list.add(new, &list.measure(&self.codec, new))
                || self.replace_links(vertex, level, &list)?
            {
                break;
            }
        }
        Ok(())
    }

    /// Makes sure that one of a vertex's neighbours links back to it.
    ///
    /// The heuristic may have turned the vertex down everywhere, most of all
    /// where many vectors are equal. Then it goes into a neighbour's list in the
    /// place of the least useful link there, and takes that link over itself, so
    /// that what could be reached still can.
    pub(super) fn ensure_linked(
        &self,
        vertex: Vertex,
        code: &Code,
        level: u8,
        neighbours: &[Vertex],
    ) -> Result<(), Error> {
        for &neighbour in neighbours {
            if self
                .live_places(neighbour, level)?
                .is_some_and(|links| links.contains(&vertex))
            {
                return Ok(());
            }
        }
        for &neighbour in neighbours {
            // Until nobody changes the list at the same time.
            while let Some(mut list) = self.neighbourhood(neighbour, level)? {
                if list.contains(vertex) {
                    return Ok(());
                }
                if let Some(last) = list.force(&self.codec, vertex, code) {
                    self.take_over(vertex, last, level)?;
                }
                if self.replace_links(neighbour, level, &list)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Adds a link to a vertex in any case, if need be in the place of another.
    fn take_over(&self, vertex: Vertex, link: Vertex, level: u8) -> Result<(), Error> {
        // Links to the dead are not passed on: vacuum may have looked for them
        // here already.
        if link == vertex || !self.with_slot(link, |slot| is_live(&slot, level))? {
            return Ok(());
        }
        let Some(code) = self.code_of(link, level)? else {
            return Ok(());
        };
        while let Some(mut list) = self.neighbourhood(vertex, level)? {
            if list.contains(link) {
                break;
            }
            list.force(&self.codec, link, &code);
            if self.replace_links(vertex, level, &list)? {
                break;
            }
        }
        Ok(())
    }

    /// Writes the changed links of a live vertex; false if they were changed by
    /// another since they were read.
    pub(super) fn replace_links(
        &self,
        vertex: Vertex,
        level: u8,
        list: &Neighbourhood<C::Query>,
    ) -> Result<bool, Error> {
        let used = list.places.iter().rposition(|p| p.number != NONE);
        let places = &list.places[..used.map_or(0, |last| last + 1)];
        let added: Vec<(usize, &[u8])> = list
            .added
            .iter()
            .map(|(p, code)| (*p, code.bytes()))
            .collect();

        let (block, at) = self.layout.locate(vertex)?;
        let mut first = self.store.lock(block)?;
        let slot = Slot::parse(&self.layout, block, &first, at)?;
        if !is_live(&slot, level) || slot.marked_places(&self.layout) != list.seen {
            return Ok(false);
        }
        let range = self.layout.links_at..self.layout.code_at;
        let edit = |bytes: &mut [u8]| {
            SlotMut::of_bytes(&self.layout, bytes).set_places(places);
            if self.is_fused() {
                let links = &mut bytes[range.clone()];
                self.codec.encode_links(list.own.bytes(), &added, links);
            }
        };
        if self.layout.pages_per_slot == 1 || !self.is_fused() {
            let end = (at + self.layout.slot_len).min(BODY_LEN);
            self.store.commit(&mut [&mut first], &mut |bodies| {
                edit(&mut bodies[0].0[at..end]);
            });
            return Ok(true);
        }

        let before = self.gather(block, slot.bytes())?;
        let mut after = before.clone();
        edit(after.bytes_mut());
        let kept: Vec<Place> = (list.seen.iter().zip(places))
            .map(|(seen, place)| match seen.number == place.number {
                true => *place,
                false => Place::EMPTY,
            })
            .collect();
        self.write_pages(block, &mut first, &before, &after, &kept)?;
        Ok(true)
    }

    /// Writes a changed slot that spans pages, the first of which is locked. If
    /// one record cannot hold all, the neighbours that change are hidden first
    /// (`kept` has the others in their places) and shown again last.
    fn write_pages(
        &self,
        block: Block,
        first: &mut S::Write<'s>,
        before: &Code,
        after: &Code,
        kept: &[Place],
    ) -> Result<(), Error> {
        let differs = |(range, _): &(std::ops::Range<usize>, usize)| {
            before.bytes()[range.clone()] != after.bytes()[range.clone()]
        };
        let copy = |body: &mut Body, (range, at): (std::ops::Range<usize>, usize)| {
            body.0[at..at + range.len()].copy_from_slice(&after.bytes()[range]);
        };
        let mut pieces = self.layout.pieces(0).zip(block..);
        let Some((first_piece, _)) = pieces.next() else {
            return Ok(());
        };
        let changed: Vec<_> = pieces.filter(|(piece, _)| differs(piece)).collect();
        if changed.len() < MAX_PAGES_PER_RECORD {
            let mut others = Vec::with_capacity(changed.len());
            for (_, block) in &changed {
                others.push(self.store.lock(*block)?);
            }
            let mut pages = vec![first];
            pages.extend(&mut others);
            self.store.commit(&mut pages, &mut |bodies| {
                copy(bodies[0], first_piece.clone());
                for (body, (piece, _)) in bodies[1..].iter_mut().zip(&changed) {
                    copy(body, piece.clone());
                }
            });
            return Ok(());
        }
        self.store.commit(&mut [first], &mut |bodies| {
            SlotMut::new(&self.layout, bodies[0], 0).set_places(kept);
        });
        for (piece, block) in &changed {
            let mut page = self.store.lock(*block)?;
            self.store.commit(&mut [&mut page], &mut |bodies| {
                copy(bodies[0], piece.clone())
            });
        }
        self.store.commit(&mut [first], &mut |bodies| {
            copy(bodies[0], first_piece.clone())
        });
        Ok(())
    }
}

/// Whether a slot is that of a live vertex of a level.
fn is_live(slot: &Slot<'_>, level: u8) -> bool {
    slot.state == State::Live && slot.header.level == level
}
