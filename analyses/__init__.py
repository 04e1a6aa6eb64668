"""Studies built on subkern: a `analyses.study.Study` each, with settings, findings and a page.

Computing and drawing are separate: ``run`` returns :class:`analyses.engine.run_folder.Results`,
and all that is drawn or said is made from those alone, so a saved run can be redrawn without its
model.
"""
