"""Studies built on subkern, each with ``Config``, ``run(config)`` and ``plot(results)``.

Computing and drawing are separate: ``run`` returns :class:`analyses.engine.run_folder.Results`,
and all that
is drawn or said is made from those alone, so a saved run can be redrawn without its model.
"""
