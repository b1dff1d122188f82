INSERT INTO suppliers (name, iban) VALUES
  ('Nordwind GmbH',        'DE89370400440532013000'),
  ('Elbe Verpackung KG',   'DE02120300000000202051'),
  ('Baltic Freight OU',    'EE382200221020145685'),
  ('Kontor Reinigung',     'DE02500105170137075030'),
  ('Hafen Strom AG',       'DE02100500000054540402'),
  ('Papier Petersen',      'DK5000400440116243'),
  ('Cloud Nine Hosting',   'IE29AIBK93115212345678');

-- 4711 is the large one. 4716 repeats 4704. 4718 asks for payment to an account
-- that is not the supplier's.
INSERT INTO invoices (number, supplier, reference, amount_cents, currency, iban, due, status) VALUES
  ('4700', 'Kontor Reinigung',   'KR-2026-031',   38500, 'EUR', 'DE02500105170137075030', '2026-04-02', 'paid'),
  ('4701', 'Hafen Strom AG',     'HS-88120',     128040, 'EUR', 'DE02100500000054540402', '2026-04-05', 'paid'),
  ('4702', 'Papier Petersen',    'PP-5510',       21990, 'EUR', 'DK5000400440116243',     '2026-04-20', 'open'),
  ('4703', 'Baltic Freight OU',  'BF-20931',     342500, 'EUR', 'EE382200221020145685',   '2026-04-21', 'open'),
  ('4704', 'Elbe Verpackung KG', 'EV-7741',      189900, 'EUR', 'DE02120300000000202051', '2026-04-22', 'open'),
  ('4705', 'Cloud Nine Hosting', 'CNH-04-26',     64900, 'EUR', 'IE29AIBK93115212345678', '2026-04-23', 'open'),
  ('4706', 'Kontor Reinigung',   'KR-2026-044',   38500, 'EUR', 'DE02500105170137075030', '2026-04-24', 'open'),
  ('4707', 'Hafen Strom AG',     'HS-88411',     131275, 'EUR', 'DE02100500000054540402', '2026-04-25', 'open'),
  ('4708', 'Baltic Freight OU',  'BF-20977',     287000, 'EUR', 'EE382200221020145685',   '2026-04-26', 'open'),
  ('4709', 'Papier Petersen',    'PP-5532',       17450, 'EUR', 'DK5000400440116243',     '2026-04-27', 'open'),
  ('4710', 'Elbe Verpackung KG', 'EV-7760',      203300, 'EUR', 'DE02120300000000202051', '2026-04-28', 'open'),
  ('4711', 'Nordwind GmbH',      'NW-2026-117', 1240000, 'EUR', 'DE89370400440532013000', '2026-04-30', 'open'),
  ('4712', 'Kontor Reinigung',   'KR-2026-051',   38500, 'EUR', 'DE02500105170137075030', '2026-05-02', 'open'),
  ('4713', 'Cloud Nine Hosting', 'CNH-05-26',     64900, 'EUR', 'IE29AIBK93115212345678', '2026-05-03', 'open'),
  ('4714', 'Nordwind GmbH',      'NW-2026-120',  415000, 'EUR', 'DE89370400440532013000', '2026-05-04', 'open'),
  ('4715', 'Baltic Freight OU',  'BF-21010',     298700, 'EUR', 'EE382200221020145685',   '2026-05-05', 'open'),
  ('4716', 'Elbe Verpackung KG', 'EV-7741',      189900, 'EUR', 'DE02120300000000202051', '2026-05-06', 'open'),
  ('4717', 'Hafen Strom AG',     'HS-88702',     127830, 'EUR', 'DE02100500000054540402', '2026-05-07', 'open'),
  ('4718', 'Nordwind GmbH',      'NW-2026-123',  388000, 'EUR', 'LT121000011101001000',   '2026-05-08', 'open'),
  ('4719', 'Papier Petersen',    'PP-5560',       23120, 'EUR', 'DK5000400440116243',     '2026-05-09', 'open');

INSERT INTO payments (invoice_number, amount_cents, currency, payee, iban, status, paid_at) VALUES
  ('4700',  38500, 'EUR', 'Kontor Reinigung', 'DE02500105170137075030', 'executed', '2026-04-01T10:00:00Z'),
  ('4701', 128040, 'EUR', 'Hafen Strom AG',   'DE02100500000054540402', 'executed', '2026-04-03T10:00:00Z');
